//! Several readers of one text, and of several.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use futures_util::{TryStreamExt as _, future::try_join_all, stream};

use super::{Coding::Identity, reader::SHORT, *};

/// A time that no test waits for unless it fails.
const DEADLINE: Duration = Duration::from_secs(20);

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

/// Bytes of all texts.
fn kept<K>(texts: &SharedTexts<K>) -> usize {
    lock(&texts.0).bytes
}

async fn whole<K: Send + 'static>(reader: Reader<K>) -> io::Result<Vec<u8>> {
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
    let read = try_join_all(others.into_iter().map(whole));
    let (first, others) = tokio::try_join!(whole(first), read)?;
    assert_eq!(first.len(), 1_000);
    assert!(others.iter().all(|other| *other == first));
    assert_eq!(made.load(Relaxed), 100);
    assert_eq!(kept(&texts), 0, "it is gone with its readers");
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
    assert!(kept(&texts) <= 100);
    assert!(
        texts.join(&7, Identity).is_none(),
        "its first piece is gone"
    );
    let cut_off = stalled.try_next().await.expect_err("cut off");
    assert_eq!(cut_off.kind(), io::ErrorKind::TimedOut);
    drop(stalled);
    assert_eq!(kept(&texts), 0);
    Ok(())
}

#[tokio::test]
async fn a_reader_that_stalls_costs_the_readers_of_later_texts_nothing() -> io::Result<()> {
    let texts = SharedTexts::new(100);
    let stalled = texts.begin(7, numbers(10).1, Identity);
    whole(texts.join(&7, Identity).expect("it has begun")).await?;
    assert_eq!(kept(&texts), 100, "all that may be kept");
    let first = texts.begin(8, numbers(9).1, Identity);
    let slower = texts.join(&8, Identity).expect("it has begun");
    let text = whole(first).await?;
    assert_eq!(kept(&texts), 100);
    assert_eq!(whole(slower).await?, text);
    assert!(whole(stalled).await.is_err(), "the oldest pieces are gone");
    Ok(())
}

/// How two readers of a text end that is never whole.
async fn both<K: PartialEq + Send + 'static>(
    texts: &SharedTexts<K>,
    key: &K,
    first: Reader<K>,
) -> [io::ErrorKind; 2] {
    let second = texts.join(key, Identity).expect("it has begun");
    let read = async { tokio::join!(whole(first), whole(second)) };
    let (first, second) = timeout(DEADLINE, read).await.expect("no reader waits");
    [first, second].map(|read| read.expect_err("no whole text").kind())
}

#[tokio::test]
async fn every_reader_is_told_that_the_source_failed_and_no_new_one_joins() {
    let texts = SharedTexts::new(100);
    let failing = stream::iter([Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]);
    let first = texts.begin(7, failing.boxed(), Identity);
    let stalls = texts.join(&7, Identity).expect("it has begun");
    assert_eq!(both(&texts, &7, first).await, [io::ErrorKind::Other; 2]);
    assert!(texts.join(&7, Identity).is_none());
    drop(stalls);
}

#[tokio::test]
async fn a_source_that_panics_ends_the_text_for_every_reader() {
    let texts = SharedTexts::new(100);
    let panics = stream::once(async {
        tokio::task::yield_now().await;
        panic!("a mistake of the source")
    });
    let first = texts.begin(7, panics.boxed(), Identity);
    assert_eq!(both(&texts, &7, first).await, [io::ErrorKind::Other; 2]);
}

#[tokio::test]
async fn a_source_that_gives_nothing_ends_the_text_after_its_deadline() {
    let texts = SharedTexts::new(100);
    lock(&texts.0).longest_piece = Duration::from_millis(10);
    let first = texts.begin(7, stream::pending().boxed(), Identity);
    let stalls = texts.join(&7, Identity).expect("it has begun");
    assert_eq!(both(&texts, &7, first).await, [io::ErrorKind::TimedOut; 2]);
    assert!(texts.join(&7, Identity).is_none());
    drop(stalls);
}

#[tokio::test]
async fn who_begins_a_text_that_another_began_meanwhile_reads_that_one() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    let (made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let (made_again, source) = numbers(100);
    let second = texts.begin(7, source, Identity);
    let third = texts.join(&7, Identity).expect("it has begun");
    try_join_all([first, second, third].map(whole)).await?;
    assert_eq!((made.load(Relaxed), made_again.load(Relaxed)), (100, 0));
    Ok(())
}

#[tokio::test]
async fn a_text_with_one_reader_for_a_while_keeps_nothing_behind_it() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    lock(&texts.0).alone = Duration::ZERO;
    let (_made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let second = texts.join(&7, Identity).expect("it has begun");
    let mut first = Box::pin(first.pieces());
    first.try_next().await?;
    first.try_next().await?;
    assert_eq!(kept(&texts), 20, "the second reader needs them");
    drop(second);
    let mut most = 0;
    while first.try_next().await?.is_some() {
        most = most.max(kept(&texts));
    }
    assert_eq!(most, 10);
    assert!(texts.join(&7, Identity).is_none(), "its beginning is gone");
    Ok(())
}

#[tokio::test]
async fn compressed_forms_count_towards_the_limit() -> io::Result<()> {
    let texts = SharedTexts::new(100);
    let plain = texts.begin(7, numbers(10).1, Identity);
    let packed = texts.join(&7, Coding::Zstd).expect("it has begun");
    whole(plain).await?;
    assert_eq!(kept(&texts), 100, "all that may be kept");
    let mut packed = Box::pin(packed.pieces());
    while packed.try_next().await?.is_some() {
        assert!(kept(&texts) <= 100, "{}", kept(&texts));
    }
    drop(packed);
    assert_eq!(kept(&texts), 0);
    Ok(())
}

#[tokio::test]
async fn a_large_piece_is_compressed_once_for_readers_that_need_it_at_the_same_time()
-> io::Result<()> {
    let texts = SharedTexts::new(8 << 20);
    let large = Bytes::from(vec![b'x'; 4 * SHORT]);
    let source = stream::iter([Ok(large.clone())]).boxed();
    let first = texts.begin(7, source, Coding::Zstd);
    let others = (0..9).map(|_each| texts.join(&7, Coding::Zstd).expect("it has begun"));
    let mut readers: Vec<_> = others.collect();
    readers.push(first);
    let forms = try_join_all(readers.iter().map(|reader| reader.piece(0))).await?;
    let one = forms[0].as_ref().expect("a piece");
    assert_eq!(zstd::stream::decode_all(one.as_ref())?, large);
    let is_the_same =
        |form: &Option<Bytes>| form.as_deref().map(<[u8]>::as_ptr) == Some(one.as_ptr());
    assert!(forms.iter().all(is_the_same));
    assert_eq!(kept(&texts), large.len() + one.len());
    Ok(())
}

#[tokio::test]
async fn each_reader_takes_the_form_that_it_accepts_and_a_form_is_kept_once() -> io::Result<()> {
    let texts = SharedTexts::new(1 << 20);
    let (_made, source) = numbers(100);
    let first = texts.begin(7, source, Identity);
    let stalled = texts.join(&7, Identity).expect("it has begun");
    let packed = [(); 3].map(|()| texts.join(&7, Coding::Zstd).expect("it has begun"));
    let plain = whole(first).await?;
    let mut bytes = Vec::new();
    for packed in packed {
        assert_eq!(
            zstd::stream::decode_all(whole(packed).await?.as_slice())?,
            plain
        );
        bytes.push(kept(&texts));
    }
    assert!(bytes[0] > plain.len());
    assert_eq!(bytes, [bytes[0]; 3]);
    assert_eq!(whole(stalled).await?, plain);
    assert_eq!(kept(&texts), 0);
    Ok(())
}

#[test]
fn a_text_is_compressed_where_that_is_accepted_and_pays() {
    use Coding::Zstd;
    let request = |accepted: Option<&str>, peer: &str| {
        let mut request = actix_web::test::TestRequest::default();
        if let Some(accepted) = accepted {
            request = request.insert_header((actix_web::http::header::ACCEPT_ENCODING, accepted));
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
