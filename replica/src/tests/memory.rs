//! What a replica keeps in memory: no task may hold what was replaced, however long it waits.

use std::sync::Weak;

use futures_util::{StreamExt, stream};

use super::*;
use crate::{Builder, View};

/// A publisher of A at revision 1 whose live feed has one event, and then nothing for as long as the
/// reader wants.
fn publisher(request: &HttpRequest, _body: &[u8]) -> HttpResponse {
    let accept = request.headers().get("accept");
    if accept.is_some_and(|accept| accept == "text/event-stream") {
        let data = event("Update", "x", 2, Some(json!({"v": 2})));
        let first = format!("id: A:2\nevent: change\ndata: {data}\n\n");
        let first = stream::iter([Ok::<_, std::io::Error>(web::Bytes::from(first))]);
        return HttpResponse::Ok()
            .content_type("text/event-stream")
            .streaming(first.chain(stream::pending()));
    }
    let body = if request.path().starts_with("/v1/replicas/") {
        checked_in(1, &[])
    } else {
        snapshot_of(EPOCH, 1, &[document("x", 1, &json!({"v": 1}))])
    };
    HttpResponse::Ok().body(body)
}

/// Waits until nobody holds this view, while changes of the document come: the next change frees what
/// readers have given back.
async fn until_freed(replica: &Replica, view: &Weak<View>, context: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    for revision in 3.. {
        if view.strong_count() == 0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "a task holds the old view: {context}"
        );
        let value = json!({"v": revision});
        let next = event("Update", "x", revision, Some(value));
        replica.receive(next, None).await;
        tick.tick().await;
    }
}

#[tokio::test]
async fn no_task_keeps_what_was_replaced() {
    for events in [Events::Posted, Events::Feed] {
        for typed in [false, true] {
            with_server(publisher, async |url| {
                let builder = Builder::new(Config {
                    events: events.clone(),
                    ..settings(vec![url])
                });
                let builder = if typed {
                    builder.collection::<Value>("A").expect("a type")
                } else {
                    builder
                };
                let replica = builder.build().expect("a replica");
                following(&replica, async {
                    replica.ready().await.expect("a load");
                    // The last change of the state for a while.
                    let loaded_at = replica.view().confirmed_at;
                    eventually("a check-in", || replica.view().confirmed_at != loaded_at).await;
                    let loaded = Arc::downgrade(&replica.view());
                    let context = format!("{events:?}, with a type: {typed}");
                    if matches!(events, Events::Feed) {
                        eventually("the feed is read", || {
                            held(&replica, "x").as_deref() == Some(r#"{"v":2}"#)
                        })
                        .await;
                    } else {
                        let second = event("Update", "x", 2, Some(json!({"v": 2})));
                        replica.receive(second, None).await;
                    }
                    until_freed(&replica, &loaded, &context).await;
                })
                .await;
            })
            .await;
        }
    }
}
