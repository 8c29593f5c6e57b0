//! Answers that last longer than the credential of their caller: a live feed may be open for days. Such
//! an answer breaks off soon after the credential was revoked, has expired, or gives other rights.

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
use contract::access::Identity;
use tokio::time::sleep;

/// Time between two looks at the credential.
const INTERVAL: Duration = Duration::from_secs(10);

/// An answer that ends with the credential of its caller, and when the caller is no longer the one for
/// whom it was begun: rights are asked for at the begin. One of known length is short and stays as it is.
pub(super) fn while_valid(body: BoxBody, session: Session, begun_for: Identity) -> BoxBody {
    match body.size() {
        BodySize::Stream => BoxBody::new(WhileValid {
            body,
            ended: Box::pin(until_ended(session, begun_for, INTERVAL)),
        }),
        _short => body,
    }
}

/// Waits until the credential is refused or is worth something else. That it is not known whether it is
/// valid ends nothing.
async fn until_ended(session: Session, begun_for: Identity, interval: Duration) {
    loop {
        sleep(interval).await;
        match session.check().await {
            Err(Refused::Missing | Refused::Invalid(_)) => return,
            Ok(now) if now != begun_for => return,
            Ok(_) | Err(Refused::Unavailable(_)) => {}
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
            let ended = io::Error::other("the credential of the caller ended or has other grants");
            return Poll::Ready(Some(Err(ended.into())));
        }
        Pin::new(&mut this.body).poll_next(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use actix_web::body::BodyStream;
    use auth::{Authenticator, Presented, SecretToken, StoreTokens};
    use contract::{
        access::{Grant, Role},
        token::TokenRecord,
    };
    use futures_util::stream;
    use tokio::time::timeout;

    use super::*;

    fn lasting(session: Session, begun_for: Identity) -> WhileValid {
        let silent = stream::pending::<Result<Bytes, io::Error>>();
        WhileValid {
            body: BodyStream::new(silent).boxed(),
            ended: Box::pin(until_ended(session, begun_for, Duration::ZERO)),
        }
    }

    async fn breaks_off(mut answer: WhileValid) -> bool {
        let next = std::future::poll_fn(|context| Pin::new(&mut answer).poll_next(context)).await;
        next.expect("an end").is_err()
    }

    #[actix_web::test]
    async fn an_answer_that_lasts_breaks_off_when_its_credential_has_ended() {
        let refusing = Authenticator::refusing();
        let session = Session::new(Arc::new(refusing), Presented::default());
        assert!(breaks_off(lasting(session, Identity::unrestricted())).await);

        let open = Session::new(Arc::new(Authenticator::open()), Presented::default());
        let identity = open.check().await.expect("valid");
        let whole = while_valid(BoxBody::new("short"), open, identity);
        assert_eq!(whole.size(), BodySize::Sized(5));
    }

    #[actix_web::test]
    async fn an_answer_that_lasts_breaks_off_when_its_credential_has_other_grants() {
        let token = SecretToken::generate();
        let record = |role| TokenRecord {
            id: token.hash().id(),
            name: "ann".parse().expect("a name"),
            hash: token.hash(),
            grants: vec![Grant::everywhere(role)],
            created_at: Default::default(),
            created_by: "here".to_owned(),
            expires_at: None,
            revoked_at: None,
        };
        let tokens = StoreTokens::default();
        tokens.set([record(Role::Reader)]);
        let authenticator = Arc::new(Authenticator::refusing());
        authenticator.use_store(tokens.clone());
        let header = format!("Bearer {}", token.expose());
        let presented = Presented {
            authorization: Some(&header),
            ..Presented::default()
        };
        let session = || Session::new(Arc::clone(&authenticator), presented);
        let reader = session().check().await.expect("valid");
        let same = breaks_off(lasting(session(), reader.clone()));
        assert!(timeout(Duration::from_millis(20), same).await.is_err());
        tokens.set([record(Role::Writer)]);
        assert!(breaks_off(lasting(session(), reader)).await);
    }
}
