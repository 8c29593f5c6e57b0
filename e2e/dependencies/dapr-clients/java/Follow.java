// Follows one key with the SDK of Dapr for Java: Follow STORE KEY. The ports are those of the environment. It prints a line
// for each step, and ends after the deletion of the key.

import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.client.domain.ConfigurationItem;
import java.util.concurrent.CompletableFuture;

public class Follow {
  public static void main(String[] arguments) throws Exception {
    String store = arguments[0];
    String key = arguments[1];
    try (DaprClient client = new DaprClientBuilder().build()) {
      client.saveState("statestore", "greeting-java", "hello").block();
      System.out.println("state " + client.getState("statestore", "greeting-java", String.class).block().getValue());
      ConfigurationItem now = client.getConfiguration(store, key).block();
      System.out.println("have " + now.getVersion() + " " + now.getValue());
      CompletableFuture<String> deleted = new CompletableFuture<>();
      client.subscribeConfiguration(store, key).subscribe(update -> {
        ConfigurationItem item = update.getItems().get(key);
        if (item == null) {
          return;
        }
        if (item.getMetadata().containsKey("deleted")) {
          System.out.println("gone " + item.getVersion());
          deleted.complete(update.getSubscriptionId());
        } else {
          System.out.println("item " + item.getVersion() + " " + item.getValue());
        }
      });
      if (!client.unsubscribeConfiguration(deleted.get(), store).block().getIsUnsubscribed()) {
        throw new IllegalStateException("not unsubscribed");
      }
      System.out.println("unsubscribed");
    }
    // The client leaves threads behind.
    System.exit(0);
  }
}
