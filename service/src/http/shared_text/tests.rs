//! Several readers of one text.

use futures_util::TryStreamExt as _;

use super::{Coding::Identity, *};

/// A source of numbered pieces of 10 bytes, and the number of pieces that were made.
fn numbers(count: usize) -> (Arc<AtomicUsize>, BoxStream<'static, io::Result<Bytes>>) {
    let made = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&made);
    let pieces = stream::iter(0..count).then(move |number| {
        let counted = Arc::clone(&counted);
        async move {
            // Each piece takes a while, so that readers meet.
            tokio::task::yield_now().await;
            counted.fetch_add(1, Relaxed);
            Ok(Bytes::from(format!("{number:09}\n")))
        }
    });
    (made, pieces.boxed())
}

async fn whole(reader: Reader) -> io::Result<Vec<u8>> {
    reader
        .pieces()
        .try_fold(Vec::new(), async |mut text, piece| {
            text.extend_from_slice(&piece);
            Ok(text)
        })
        .await
}

#[tokio::test]
async fn readers_of_the_same_key_read_the_same_text_and_it_is_made_once() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    assert!(texts.join(&7, Identity).is_none(), "nothing has begun");
    let (made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let others: Vec<_> = (0..99)
        .map(|_each| texts.join(&7, Identity).expect("it has begun"))
        .collect();
    assert!(texts.join(&8, Identity).is_none(), "another key");
    let read = futures_util::future::try_join_all(others.into_iter().map(whole));
    let (first, others) = tokio::try_join!(whole(first), read)?;
    assert_eq!(first.len(), 1_000);
    assert!(others.iter().all(|other| *other == first));
    assert_eq!(made.load(Relaxed), 100);
    assert_eq!(
        texts.kept.bytes.load(Relaxed),
        0,
        "it is gone with its readers"
    );
    assert!(texts.join(&7, Identity).is_none());
    Ok(())
}

#[tokio::test]
async fn a_reader_that_ends_leaves_the_rest_to_the_others() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    let (made, source) = numbers(100);
    let mut first = Box::pin(texts.begin(7, source, Identity).pieces());
    let second = texts.join(&7, Identity).expect("it has begun");
    first.try_next().await?;
    // In the middle of a piece.
    assert!(first.try_next().now_or_never().is_none());
    drop(first);
    assert_eq!(whole(second).await?.len(), 1_000);
    assert_eq!(made.load(Relaxed), 100);
    Ok(())
}

#[tokio::test]
async fn a_reader_that_stalls_is_cut_off_and_costs_the_others_nothing() -> io::Result<()> {
    let texts = SharedTexts::new(100);
    let (_made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let mut stalled = Box::pin(texts.join(&7, Identity).expect("it has begun").pieces());
    stalled.try_next().await?;
    assert_eq!(whole(first).await?.len(), 1_000);
    assert!(texts.kept.bytes.load(Relaxed) <= 100);
    assert!(
        texts.join(&7, Identity).is_none(),
        "its first piece is gone"
    );
    let cut_off = stalled.try_next().await.expect_err("cut off");
    assert_eq!(cut_off.kind(), io::ErrorKind::TimedOut);
    drop(stalled);
    assert_eq!(texts.kept.bytes.load(Relaxed), 0);
    Ok(())
}

#[tokio::test]
async fn every_reader_is_told_that_the_source_failed() {
    let texts = SharedTexts::new(100);
    let failing = stream::iter([Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]);
    let first = texts.begin(7, failing.boxed(), Identity);
    let second = texts.join(&7, Identity).expect("it has begun");
    let (first, second) = tokio::join!(whole(first), whole(second));
    assert!(first.is_err() && second.is_err());
}

#[tokio::test]
async fn each_reader_takes_the_form_that_it_accepts_and_a_form_is_kept_once() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    let (_made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let kept = texts.join(&7, Identity).expect("it has begun");
    let packed = [(); 3].map(|()| texts.join(&7, Coding::Zstd).expect("it has begun"));
    let plain = whole(first).await?;
    let mut bytes = Vec::new();
    for packed in packed {
        assert_eq!(
            zstd::stream::decode_all(whole(packed).await?.as_slice())?,
            plain
        );
        bytes.push(texts.kept.bytes.load(Relaxed));
    }
    assert!(bytes[0] > plain.len());
    assert_eq!(bytes, [bytes[0]; 3]);
    assert_eq!(whole(kept).await?, plain);
    assert_eq!(texts.kept.bytes.load(Relaxed), 0);
    Ok(())
}

#[test]
fn a_text_is_compressed_where_that_is_accepted_and_pays() {
    use Coding::Zstd;
    let request = |accepted: Option<&str>, peer: &str| {
        let mut request = actix_web::test::TestRequest::default();
        if let Some(accepted) = accepted {
            request = request.insert_header((header::ACCEPT_ENCODING, accepted));
        }
        request
            .peer_addr(peer.parse().expect("an address"))
            .to_http_request()
    };
    for (accepted, joining) in [
        (None, Identity),
        (Some("zstd"), Zstd),
        (Some("gzip, deflate"), Identity),
        (Some("gzip, zstd"), Zstd),
        (Some("zstd;q=0, identity"), Identity),
        (Some("identity, zstd;q=0.5"), Identity),
        (Some("?;="), Identity),
    ] {
        let near = request(accepted, "[::ffff:127.0.0.1]:9");
        let far = request(accepted, "10.0.0.1:9");
        assert_eq!(Coding::of_joining(&near), joining, "{accepted:?}");
        assert_eq!(Coding::of_first(&near), Identity, "{accepted:?}");
        assert_eq!(Coding::of_first(&far), joining, "{accepted:?}");
    }
}
