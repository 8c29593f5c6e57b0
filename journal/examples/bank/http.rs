//! The HTTP API (requirement E8): reads a request, calls the journal, answers. A change answers with
//! the account after it; a request with an `Idempotency-Key` may be sent again.

use actix_web::{
    HttpRequest, HttpResponse, ResponseError,
    error::JsonPayloadError,
    http::{StatusCode, header},
    web,
};
use journal::{AggregateId, AppendId, ExecuteError, Executed, Journal, JournalError, Loaded};
use serde::Deserialize;
use serde_json::json;

use crate::account::{Account, Command, Event, Refusal};

/// Largest body of a request, in bytes.
const BODY: usize = 4 << 10;

/// Adds the routes to a server.
pub(crate) fn routes(config: &mut web::ServiceConfig) {
    let json = web::JsonConfig::default().limit(BODY);
    config
        .app_data(json.error_handler(|error, _request| body_problem(&error).into()))
        .route("/accounts", web::post().to(open))
        .route("/accounts/{id}", web::get().to(read))
        .route("/accounts/{id}/deposits", web::post().to(deposit))
        .route("/accounts/{id}/withdrawals", web::post().to(withdraw))
        .default_service(web::to(async || {
            Problem::new(StatusCode::NOT_FOUND, "there is no such route").error_response()
        }));
}

/// A refused request (RFC 9457).
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl ToString) -> Self {
        Self {
            status,
            detail: detail.to_string(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        HttpResponse::build(self.status)
            .content_type("application/problem+json")
            .body(body.to_string())
    }
}

fn body_problem(error: &JsonPayloadError) -> Problem {
    let status = match error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        JsonPayloadError::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::new(status, error)
}

impl From<JournalError> for Problem {
    fn from(error: JournalError) -> Self {
        let status = match &error {
            JournalError::NotFound(_) => StatusCode::NOT_FOUND,
            JournalError::AlreadyExists(_)
            | JournalError::Conflict { .. }
            | JournalError::TooLong { .. } => StatusCode::CONFLICT,
            // The client may repeat the request with the same key.
            JournalError::Unavailable(_)
            | JournalError::OutcomeUnknown { .. }
            | JournalError::NotReplicated { .. } => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::warn!("a request is answered {}: {error}", status.as_u16());
        }
        Self::new(status, error)
    }
}

impl From<ExecuteError<Refusal>> for Problem {
    fn from(error: ExecuteError<Refusal>) -> Self {
        match error {
            ExecuteError::Journal(error) => error.into(),
            ExecuteError::Refused(Refusal::Amount) => {
                Self::new(StatusCode::BAD_REQUEST, Refusal::Amount)
            }
            ExecuteError::Refused(refusal) => Self::new(StatusCode::CONFLICT, refusal),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opening {
    id: Option<String>,
    #[serde(default)]
    amount: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Movement {
    amount: u64,
}

/// The id of an account, of a path or a body.
fn account_id(text: &str) -> Result<AggregateId, Problem> {
    let id = text.parse::<AggregateId>();
    id.map_err(|it| Problem::new(StatusCode::BAD_REQUEST, format!("id: {it}")))
}

/// The id of the change: the key of the client, or a random one.
fn append_id(request: &HttpRequest) -> Result<AppendId, Problem> {
    let Some(key) = request.headers().get("idempotency-key") else {
        return Ok(AppendId::random());
    };
    let key = key.to_str().ok().and_then(|key| key.parse().ok());
    let wrong =
        "Idempotency-Key: expected 1 to 128 characters of A-Z, a-z, 0-9, '.', '_', '~', '-'";
    key.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, wrong))
}

fn body_of(account: &Loaded<Account>) -> serde_json::Value {
    json!({ "id": account.id.as_str(), "version": account.version, "funds": account.state.funds })
}

async fn open(
    request: HttpRequest,
    journal: web::Data<Journal<Account>>,
    body: web::Json<Opening>,
) -> Result<HttpResponse, Problem> {
    let append = append_id(&request)?;
    let id = match &body.id {
        Some(id) => account_id(id)?,
        // A repetition must find the account of the first attempt.
        None if request.headers().contains_key("idempotency-key") => account_id(append.as_str())?,
        None => AggregateId::random(),
    };
    let command = Command::Open(body.amount);
    let opened = journal.create(&id, &append, &command).await?;
    require_same(
        &opened,
        Event::Create {
            amount: body.amount,
        },
    )?;
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, format!("/accounts/{id}")))
        .json(body_of(&opened.aggregate)))
}

async fn read(
    journal: web::Data<Journal<Account>>,
    path: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = account_id(&path)?;
    let account = journal.load(&id).await?;
    let account = account.ok_or_else(|| JournalError::NotFound(id))?;
    Ok(HttpResponse::Ok().json(body_of(&account)))
}

async fn deposit(
    request: HttpRequest,
    journal: web::Data<Journal<Account>>,
    path: web::Path<String>,
    body: web::Json<Movement>,
) -> Result<HttpResponse, Problem> {
    let amount = body.amount;
    let event = Event::Deposit { amount };
    change(&request, &journal, &path, Command::Deposit(amount), event).await
}

async fn withdraw(
    request: HttpRequest,
    journal: web::Data<Journal<Account>>,
    path: web::Path<String>,
    body: web::Json<Movement>,
) -> Result<HttpResponse, Problem> {
    let amount = body.amount;
    let event = Event::Withdraw { amount };
    change(&request, &journal, &path, Command::Withdraw(amount), event).await
}

async fn change(
    request: &HttpRequest,
    journal: &Journal<Account>,
    id: &str,
    command: Command,
    event: Event,
) -> Result<HttpResponse, Problem> {
    let append = append_id(request)?;
    let id = account_id(id)?;
    let executed = journal.execute(&id, &append, &command).await?;
    require_same(&executed, event)?;
    Ok(HttpResponse::Ok().json(body_of(&executed.aggregate)))
}

/// Refuses a key that was used for another change.
fn require_same(executed: &Executed<Account>, event: Event) -> Result<(), Problem> {
    if executed.events == [event] {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "Idempotency-Key: it was used for another change of this account",
    ))
}
