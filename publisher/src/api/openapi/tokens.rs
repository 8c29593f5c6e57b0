//! Operations of bearer tokens.

use contract::{
    ProblemKind,
    token::{CreatedToken, TokenId, TokenRequest, Tokens},
};
use service::http::{
    JSON,
    openapi::{ApiAnswer, ApiOperation, ApiSchema},
};

use crate::api::openapi::reading;

pub(crate) fn list() -> ApiOperation {
    let operation = ApiOperation::new("listTokens", "The tokens of the store, without the tokens");
    let description = "Those that the caller may manage, the newest first";
    reading(operation).answer(ApiAnswer::json::<Tokens>(200, description))
}

pub(crate) fn create() -> ApiOperation {
    let operation = ApiOperation::new("createToken", "Make a bearer token");
    reading(operation)
        .body(JSON, true, ApiSchema::received::<TokenRequest>())
        .problems(&[
            ProblemKind::BadBody,
            ProblemKind::TokensFull,
            ProblemKind::NameTaken,
        ])
        .answer(ApiAnswer::json::<CreatedToken>(
            201,
            "The token, which no other answer has",
        ))
}

pub(crate) fn revoke() -> ApiOperation {
    let operation = ApiOperation::new("revokeToken", "Revoke a bearer token");
    reading(operation)
        .path("id", "Id of the token", ApiSchema::of::<TokenId>())
        .problems(&[ProblemKind::BadRequest, ProblemKind::NoToken])
        .answer(ApiAnswer::empty(204, "It is refused from now on"))
}
