//! Answers that last longer than the credential of their caller: a live feed may be open for days. Such
//! an answer breaks off soon after the credential was revoked or has expired.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    body::{BodySize, BoxBody, MessageBody},
    web::Bytes,
};
use auth::{Refused, Session};
use tokio::time::sleep;

/// Time between two looks at the credential.
const INTERVAL: Duration = Duration::from_secs(10);

/// An answer that ends with the credential of its caller. One of known length is short and stays as it
/// is.
pub(super) fn while_valid(body: BoxBody, session: Session) -> BoxBody {
    match body.size() {
        BodySize::Stream => BoxBody::new(WhileValid {
            body,
            ended: Box::pin(until_ended(session, INTERVAL)),
        }),
        _short => body,
    }
}

/// Waits until the credential is refused. That it is not known whether it is valid ends nothing.
async fn until_ended(session: Session, interval: Duration) {
    loop {
        sleep(interval).await;
        if let Err(Refused::Missing | Refused::Invalid(_)) = session.check().await {
            return;
        }
    }
}

struct WhileValid {
    body: BoxBody,
    ended: Pin<Box<dyn Future<Output = ()>>>,
}

impl MessageBody for WhileValid {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        if this.ended.as_mut().poll(context).is_ready() {
            // An error and no end: an answer that is cut must not look whole.
            let ended = io::Error::other("the credential of the caller is no longer valid");
            return Poll::Ready(Some(Err(ended.into())));
        }
        Pin::new(&mut this.body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::body::BodyStream;
    use auth::{Authenticator, Presented};
    use futures_util::stream;

    use super::*;

    #[actix_web::test]
    async fn an_answer_that_lasts_breaks_off_when_its_credential_has_ended() {
        let silent = || stream::pending::<Result<Bytes, io::Error>>();
        let refusing = Authenticator::refusing();
        let session = Session::new(Arc::new(refusing), Presented::default());
        let mut cut = WhileValid {
            body: BodyStream::new(silent()).boxed(),
            ended: Box::pin(until_ended(session, Duration::ZERO)),
        };
        let next = std::future::poll_fn(|context| Pin::new(&mut cut).poll_next(context)).await;
        assert!(next.expect("an end").is_err());

        let open = Session::new(Arc::new(Authenticator::open()), Presented::default());
        open.check().await.expect("valid");
        let whole = while_valid(BoxBody::new("short"), open);
        assert_eq!(whole.size(), BodySize::Sized(5));
    }
}
