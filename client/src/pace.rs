//! The least rate of a body.
//!
//! A limit of the silence between two pieces is not enough: a peer that sends a byte now and then keeps it
//! indefinitely. So a body brings [`LEAST_RATE`] in each period, or its end. A large body over a slow link
//! does; only the time in which the reader waits for the peer counts. Nothing here reads a body.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use crate::error::BodyError;

/// Bytes per second that a body brings at least: as many as a service asks of its readers.
pub(crate) const LEAST_RATE: u64 = 16 << 10;

/// How far the current period of one body is.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    /// Time of the period that was not waited yet.
    left: Duration,
    /// Bytes that the period still has to bring.
    missing: u64,
}

impl Pace {
    /// The pace of a body that begins, measured over periods of this length.
    pub(crate) fn new(period: Duration) -> Self {
        let mut pace = Self {
            period,
            left: Duration::ZERO,
            missing: 0,
        };
        pace.restart();
        pace
    }

    /// Waits for more of the body.
    ///
    /// # Errors
    /// When the period is over before it brought enough.
    pub(crate) async fn wait<T>(&mut self, more: impl Future<Output = T>) -> Result<T, BodyError> {
        let begun = Instant::now();
        let more = timeout(self.left, more).await;
        self.left = self.left.saturating_sub(begun.elapsed());
        more.map_err(|_elapsed| BodyError::Slow {
            bytes: self.portion(),
            period: self.period,
        })
    }

    /// Counts bytes that arrived. Enough of them begin the next period.
    pub(crate) fn arrived(&mut self, bytes: usize) {
        self.missing = self.missing.saturating_sub(bytes as u64);
        if self.missing == 0 {
            self.restart();
        }
    }

    /// Begins another period.
    pub(crate) fn restart(&mut self) {
        self.left = self.period;
        self.missing = self.portion();
    }

    /// Bytes of a period.
    fn portion(&self) -> u64 {
        let millis = u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX);
        (LEAST_RATE.saturating_mul(millis) / 1000).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use contract::{Epoch, feed::Since};
    use futures_util::future::{Either, join_all, select};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::{MissedTickBehavior, interval},
    };

    use super::*;
    use crate::{
        ClientError, Endpoint, PublisherClient, Timeouts, Url,
        live_feed::{FeedMessage, FeedStart},
    };

    const EVERY: Duration = Duration::from_millis(20);

    fn timeouts() -> Timeouts {
        let period = Duration::from_millis(500);
        Timeouts {
            read: period,
            write: period,
            silence: period,
            period,
            ..Timeouts::TEST
        }
    }

    /// A service that answers every request with a head of this media type, then with these pieces, one
    /// after the other, and with the last of them again and again if it is told to.
    struct Service {
        listener: TcpListener,
        media_type: &'static str,
        pieces: Vec<Vec<u8>>,
        without_end: bool,
        requests: AtomicUsize,
    }

    impl Service {
        async fn new(media_type: &'static str, pieces: &[&[u8]], without_end: bool) -> Self {
            Self {
                listener: TcpListener::bind(("127.0.0.1", 0)).await.expect("a port"),
                media_type,
                pieces: pieces.iter().map(|piece| piece.to_vec()).collect(),
                without_end,
                requests: AtomicUsize::new(0),
            }
        }

        /// One that sends blanks without end.
        async fn dripping() -> Self {
            Self::new("application/json", &[b" "], true).await
        }

        fn url(&self) -> Url {
            let address = self.listener.local_addr().expect("an address");
            Url::parse(&format!("http://{address}")).expect("a URL")
        }

        fn endpoint(&self) -> Endpoint {
            Endpoint::new(&self.url(), timeouts()).expect("an endpoint")
        }

        /// Serves connections at the same time.
        async fn run(&self) {
            let connection = || async {
                loop {
                    let (connection, _peer) = self.listener.accept().await.expect("a connection");
                    // The client may go whenever it likes.
                    self.answer(connection).await.ok();
                }
            };
            join_all((0..4).map(|_| connection())).await;
        }

        async fn answer(&self, mut connection: TcpStream) -> std::io::Result<()> {
            connection.read_u8().await?;
            self.requests.fetch_add(1, Relaxed);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                self.media_type
            );
            connection.write_all(head.as_bytes()).await?;
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let last = self.pieces.last().filter(|_piece| self.without_end);
            for piece in self.pieces.iter().chain(last.into_iter().cycle()) {
                ticks.tick().await;
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.extend_from_slice(piece);
                chunk.extend_from_slice(b"\r\n");
                connection.write_all(&chunk).await?;
            }
            connection.write_all(b"0\r\n\r\n").await?;
            // What comes after is not answered.
            pending().await
        }
    }

    /// What a client finds while the services run, within half a minute.
    async fn beside<T>(services: &[&Service], client: impl Future<Output = T>) -> T {
        let serving = pin!(join_all(services.iter().map(|service| service.run())));
        let client = pin!(timeout(Duration::from_secs(30), client));
        match select(client, serving).await {
            Either::Left((found, _serving)) => found.expect("the client waits without end"),
            Either::Right(_) => unreachable!("a service never ends"),
        }
    }

    fn late<T>(answer: Result<T, ClientError>) -> String {
        let Err(error) = answer else {
            panic!("an answer of blanks was used")
        };
        assert!(error.is_late() && !error.is_answer(), "{error}");
        error.to_string()
    }

    #[tokio::test]
    async fn an_answer_that_drips_is_given_up() {
        let service = Service::dripping().await;
        let endpoint = service.endpoint();
        beside(&[&service], async {
            for answer in [
                late(endpoint.heads().await),
                late(endpoint.schemas().await),
                late(endpoint.snapshot([]).await),
                late(endpoint.replicas().await),
                late(endpoint.audit_tips().await),
            ] {
                assert!(answer.contains("broke off"), "{answer}");
            }
            let text = late(endpoint.schemas().await);
            let slow = "less than 8192 bytes of it arrived in 0.5 s";
            assert!(text.ends_with(slow), "{text}");
        })
        .await;
    }

    #[tokio::test]
    async fn the_next_publisher_is_asked_when_one_drips() {
        let dripping = Service::dripping().await;
        let heads = br#"{"heads":[]}"#;
        let good = Service::new("application/json", &[heads], false).await;
        let bases = [dripping.url().into(), good.url().into()];
        let client = PublisherClient::new(&bases, timeouts(), &crate::Credentials::default(), None);
        let client = client.expect("a client");
        beside(&[&dripping, &good], async {
            let heads = client.try_each(async |publisher| publisher.heads().await);
            assert!(heads.await.expect("those of the second").is_empty());
        })
        .await;
        assert_eq!(dripping.requests.load(Relaxed), 1);
    }

    #[tokio::test]
    async fn a_long_body_over_a_slow_link_arrives() {
        // 200 KiB a second, for three periods.
        let line = [&[b'x'; 4095][..], b"\n"].concat();
        let pieces = vec![&line[..]; 75];
        let service = Service::new("application/x-ndjson", &pieces, false).await;
        let endpoint = service.endpoint();
        beside(&[&service], async {
            let answer = endpoint.get("/").await.expect("an answer");
            let mut lines = crate::lines::Lines::new(&endpoint, answer);
            let begun = Instant::now();
            let mut count = 0;
            while lines.next_line().await.expect("a line").is_some() {
                count += 1;
            }
            assert_eq!(count, 75);
            assert!(begun.elapsed() > timeouts().period);
        })
        .await;
    }

    /// The first message of a live feed with these pieces.
    async fn fed(pieces: &[&[u8]]) -> Result<Option<FeedMessage>, ClientError> {
        let service = Service::new("text/event-stream", pieces, true).await;
        let endpoint = service.endpoint();
        let epoch: Epoch = "00000001-1".parse().expect("an epoch");
        beside(&[&service], async {
            let since = Since::new();
            let feed = endpoint.live_feed(FeedStart::After(&since, epoch)).await;
            feed.expect("a feed").next_message().await
        })
        .await
    }

    #[tokio::test]
    async fn a_live_feed_may_be_silent_but_not_in_the_midst_of_an_event() {
        for drip in [&b"x"[..], b":\n", b": keep-alive\r\n", b"data:x\n"] {
            let begin = &b"event: change\ndata: x\n"[..];
            let error = late(fed(&[begin, drip]).await);
            assert!(error.contains("less than"), "{error}");
        }
        let endless_comment = late(fed(&[b":", b"x"]).await);
        assert!(endless_comment.contains("less than"), "{endless_comment}");
        // Keep-alives over two periods, then an event.
        let mut pieces = vec![&b":\n"[..]; 25];
        pieces.extend([&b":\r\n\r\n"[..]; 25]);
        pieces.push(b"event: confirm\ndata:\n\n");
        assert_eq!(
            fed(&pieces).await.expect("a feed"),
            Some(FeedMessage::Confirm)
        );
        let piece = [b'x'; 1 << 16];
        let error = fed(&[b"data: ", &piece]).await.expect_err("too long");
        assert!(error.to_string().contains("longer than"), "{error}");
    }
}
