//! A publisher that sends its answers byte by byte, without end.

use actix_web::rt::time::sleep;
use futures_util::stream::unfold;

use super::*;

/// An answer that sends a blank now and then.
fn dripping() -> HttpResponse {
    let pieces = unfold((), async |()| {
        sleep(Duration::from_millis(100)).await;
        Some((Ok::<_, std::io::Error>(web::Bytes::from_static(b" ")), ()))
    });
    HttpResponse::Ok().streaming(pieces)
}

#[tokio::test]
async fn a_publisher_that_drips_is_the_last_error_and_the_next_one_is_asked() {
    let body = snapshot_of(EPOCH, 7, &[document("x", 7, &json!({"v": 7}))]);
    let good = move |path: &str, _body: &[u8]| match path {
        "/v1/snapshot?collections=A,B" => (200, body.clone()),
        _ => not_found(),
    };
    let drips = |_request: &HttpRequest, _body: &[u8]| dripping();
    with_server(drips, async |dripping| {
        with_listener(good, async |good| {
            let alone = replica(vec![dripping.clone()]);
            let both = replica(vec![dripping, good]);
            let fails = following(&alone, async {
                eventually("a failure", || alone.status().last_error.is_some()).await;
            });
            let loads = following(&both, async {
                eventually("loaded", || both.status().state == ReplicaState::Current).await;
            });
            tokio::join!(fails, loads);
            let error = alone.status().last_error.expect("an error");
            assert!(error.contains("arrived in 5 s"), "{error}");
            assert_eq!(held(&both, "x").as_deref(), Some(r#"{"v":7}"#));
        })
        .await;
    })
    .await;
}
