// Follows one key with the SDK of Dapr for Go: follow STORE KEY. The ports are those of the environment. It prints a line for
// each step, and ends after the deletion of the key.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	dapr "github.com/dapr/go-sdk/client"
)

func main() {
	store, key := os.Args[1], os.Args[2]
	ctx := context.Background()
	client, err := dapr.NewClient()
	check(err)
	defer client.Close()

	check(client.SaveState(ctx, "statestore", "greeting-go", []byte("hello"), nil))
	state, err := client.GetState(ctx, "statestore", "greeting-go", nil)
	check(err)
	fmt.Println("state", string(state.Value))
	item, err := client.GetConfigurationItem(ctx, store, key)
	check(err)
	fmt.Println("have", item.Version, item.Value)

	deleted := make(chan string, 1)
	updated := func(id string, items map[string]*dapr.ConfigurationItem) {
		item, found := items[key]
		switch {
		case !found:
		case item.Metadata["deleted"] != "":
			fmt.Println("gone", item.Version)
			deleted <- id
		default:
			fmt.Println("item", item.Version, item.Value)
		}
	}
	_, err = client.SubscribeConfigurationItems(ctx, store, []string{key}, updated)
	check(err)
	check(client.UnsubscribeConfigurationItems(ctx, store, <-deleted))
	fmt.Println("unsubscribed")
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
