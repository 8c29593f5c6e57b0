//! The routes of both services, and what a caller needs for each: the one list of them.
//!
//! A service builds its router from these rows and cannot have a route without one, so what
//! `confcast auth explain` prints is what is decided. Nothing here handles a request.

use super::{Right, Target};

/// Who may send a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Every peer, without a credential: orchestrators have none.
    Anyone,
    /// The sidecar of the process, by the token of the sidecar (`APP_API_TOKEN`).
    Sidecar,
    /// Every caller that the service knows.
    Caller,
    /// A caller with one of these rights, the usual one first, for what the request concerns.
    Right(&'static [Right], Scope),
}

/// What a request concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The document in the path.
    Document,
    /// All documents of the collection in the path.
    Collection,
    /// Documents of the collection in the path: the handler asks for each.
    DocumentsOf,
    /// What query, body or store name: the handler asks for each, or leaves out what the caller may
    /// not see.
    Selection,
    /// The service as a whole.
    Service,
}

impl Scope {
    /// The scope in a few words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Document => "the document",
            Self::Collection => "the collection",
            Self::DocumentsOf => "each document of the collection that is named",
            Self::Selection => "each collection or document that is named or shown",
            Self::Service => "the whole service",
        }
    }

    /// An example of what a request of this scope concerns, for tables of roles and routes.
    pub fn example<'a>(
        self,
        collection: &'a crate::CollectionName,
        id: &'a crate::DocumentId,
    ) -> Target<'a> {
        match self {
            Self::Document => Target::Document(collection, id),
            Self::Collection => Target::Collection(collection),
            Self::DocumentsOf => Target::DocumentsOf(collection),
            Self::Selection => Target::Selection,
            Self::Service => Target::Service,
        }
    }
}

/// A program that serves routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// The publisher.
    Publisher,
    /// The subscriber.
    Subscriber,
}

impl Service {
    /// The name of the program.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
        }
    }
}

/// A method of a path, and what a caller needs for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteAccess {
    /// The method, in upper case.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
    /// Who may send it.
    pub access: Access,
    /// The services that have it.
    pub services: &'static [Service],
}

impl RouteAccess {
    /// Method and path, as in `GET /healthz`.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// A route for every peer, of no service: for tests of what all routes have in common.
    pub const fn open(method: &'static str, path: &'static str) -> Self {
        Self {
            method,
            path,
            access: Access::Anyone,
            services: &[],
        }
    }
}

macro_rules! routes {
    ($($name:ident: $method:literal $path:literal, $access:expr, $services:expr;)*) => {
        $(
            #[doc = concat!("`", $method, " ", $path, "`")]
            pub const $name: RouteAccess = RouteAccess {
                method: $method,
                path: $path,
                access: $access,
                services: $services,
            };
        )*

        /// Every route.
        pub const ALL: &[RouteAccess] = &[$($name),*];
    };
}

const PUBLISHER: &[Service] = &[Service::Publisher];
const SUBSCRIBER: &[Service] = &[Service::Subscriber];
const BOTH: &[Service] = &[Service::Publisher, Service::Subscriber];

const READ: &[Right] = &[Right::Read];
const WRITE: &[Right] = &[Right::Write];
const WRITE_SET: &[Right] = &[Right::WriteSet];
const FOLLOW: &[Right] = &[Right::Follow];
const OBSERVE: &[Right] = &[Right::Observe];
const OPERATE: &[Right] = &[Right::Operate];
const AUDIT: &[Right] = &[Right::Audit];
const MANAGE_TOKENS: &[Right] = &[Right::ManageTokens];
/// Revisions and counts, and no values.
const HEADS: &[Right] = &[Right::Read, Right::Observe];

use Access::{Anyone, Caller, Right as Needs, Sidecar};
use Scope::{Collection, Document, DocumentsOf, Selection, Service as WholeService};

routes! {
    GET_HEADS: "GET" "/v1/collections", Needs(HEADS, Selection), BOTH;
    GET_HEAD: "GET" "/v1/collections/{collection}", Needs(HEADS, Collection), BOTH;
    GET_DOCUMENTS: "GET" "/v1/collections/{collection}/documents", Needs(READ, Collection), BOTH;
    // The id is in the body, or generated.
    CREATE_DOCUMENT: "POST" "/v1/collections/{collection}/documents", Needs(WRITE, DocumentsOf), PUBLISHER;
    GET_DOCUMENT: "GET" "/v1/collections/{collection}/documents/{id}", Needs(READ, Document), BOTH;
    PUT_DOCUMENT: "PUT" "/v1/collections/{collection}/documents/{id}", Needs(WRITE, Document), PUBLISHER;
    PATCH_DOCUMENT: "PATCH" "/v1/collections/{collection}/documents/{id}", Needs(WRITE, Document), PUBLISHER;
    DELETE_DOCUMENT: "DELETE" "/v1/collections/{collection}/documents/{id}", Needs(WRITE, Document), PUBLISHER;
    GET_REFERRERS: "GET" "/v1/collections/{collection}/documents/{id}/referrers", Needs(READ, Document), PUBLISHER;
    GET_DOCUMENT_HISTORY: "GET" "/v1/collections/{collection}/documents/{id}/history", Needs(READ, Document), PUBLISHER;
    ROLL_BACK_DOCUMENT: "POST" "/v1/collections/{collection}/documents/{id}/rollback", Needs(WRITE, Document), PUBLISHER;
    GET_COLLECTION_CHANGES: "GET" "/v1/collections/{collection}/changes", Needs(READ, Collection), BOTH;
    GET_COLLECTION_HISTORY: "GET" "/v1/collections/{collection}/history", Needs(READ, Collection), PUBLISHER;
    GET_APPLIED: "GET" "/v1/collections/{collection}/applied", Needs(HEADS, DocumentsOf), PUBLISHER;
    ROLL_BACK_COLLECTION: "POST" "/v1/collections/{collection}/rollback", Needs(WRITE_SET, DocumentsOf), PUBLISHER;
    GET_SNAPSHOT: "GET" "/v1/snapshot", Needs(READ, Selection), BOTH;
    GET_CHANGES: "GET" "/v1/changes", Needs(READ, Selection), BOTH;
    COMMIT_CHANGE_SET: "POST" "/v1/changes", Needs(WRITE_SET, Selection), PUBLISHER;
    GET_HISTORY: "GET" "/v1/history", Needs(READ, Selection), PUBLISHER;
    ROLL_BACK_SET: "POST" "/v1/sets/{setId}/rollback", Needs(WRITE_SET, Selection), PUBLISHER;
    GET_NAMED_SNAPSHOTS: "GET" "/v1/snapshots", Needs(HEADS, Selection), PUBLISHER;
    GET_NAMED_SNAPSHOT: "GET" "/v1/snapshots/{name}", Needs(HEADS, Selection), PUBLISHER;
    CREATE_NAMED_SNAPSHOT: "PUT" "/v1/snapshots/{name}", Needs(OPERATE, WholeService), PUBLISHER;
    DELETE_NAMED_SNAPSHOT: "DELETE" "/v1/snapshots/{name}", Needs(OPERATE, WholeService), PUBLISHER;
    GET_REPLICAS: "GET" "/v1/replicas", Needs(OBSERVE, WholeService), PUBLISHER;
    CHECK_IN: "PUT" "/v1/replicas/{instance}", Needs(FOLLOW, Selection), BOTH;
    DECLARE_EPOCH: "POST" "/v1/epoch", Needs(OPERATE, WholeService), PUBLISHER;
    REPAIR: "POST" "/v1/repair", Needs(OPERATE, WholeService), PUBLISHER;
    GET_DEAD_LETTERS: "GET" "/v1/dead-letters", Needs(OBSERVE, WholeService), PUBLISHER;
    REPORT_DEAD_LETTER: "POST" "/v1/dead-letters", Needs(FOLLOW, Selection), PUBLISHER;
    DISCARD_DEAD_LETTERS: "DELETE" "/v1/dead-letters", Needs(OPERATE, WholeService), PUBLISHER;
    GET_DEAD_LETTER: "GET" "/v1/dead-letters/{id}", Needs(OBSERVE, WholeService), PUBLISHER;
    DISCARD_DEAD_LETTER: "DELETE" "/v1/dead-letters/{id}", Needs(OPERATE, WholeService), PUBLISHER;
    REPLAY_DEAD_LETTER: "POST" "/v1/dead-letters/{id}/replay", Needs(OPERATE, WholeService), PUBLISHER;
    GET_AUDIT: "GET" "/v1/audit", Needs(AUDIT, WholeService), PUBLISHER;
    GET_AUDIT_TIPS: "GET" "/v1/audit/tips", Needs(AUDIT, WholeService), PUBLISHER;
    GET_SCHEMAS: "GET" "/v1/schemas", Needs(READ, Selection), PUBLISHER;
    GET_SCHEMA: "GET" "/v1/schemas/{collection}", Needs(READ, DocumentsOf), PUBLISHER;
    GET_SAMPLE: "GET" "/v1/schemas/{collection}/sample", Needs(READ, DocumentsOf), PUBLISHER;
    GET_TOKENS: "GET" "/v1/tokens", Needs(MANAGE_TOKENS, Selection), PUBLISHER;
    CREATE_TOKEN: "POST" "/v1/tokens", Needs(MANAGE_TOKENS, Selection), PUBLISHER;
    REVOKE_TOKEN: "DELETE" "/v1/tokens/{id}", Needs(MANAGE_TOKENS, Selection), PUBLISHER;
    GET_STATUS: "GET" "/v1/status", Needs(OBSERVE, WholeService), SUBSCRIBER;
    GET_VERSION: "GET" "/v1/version", Needs(OBSERVE, WholeService), BOTH;
    GET_IDENTITY: "GET" "/v1/identity", Caller, BOTH;
    GET_OPENAPI: "GET" "/openapi.json", Caller, BOTH;
    GET_METRICS: "GET" "/metrics", Needs(OBSERVE, WholeService), BOTH;
    GET_HEALTH: "GET" "/healthz", Anyone, BOTH;
    GET_READINESS: "GET" "/readyz", Anyone, BOTH;
    SIDECAR_SUBSCRIPTIONS: "GET" "/dapr/subscribe", Sidecar, BOTH;
    SIDECAR_DEAD_LETTERS: "POST" "/dapr/deadLetters", Sidecar, PUBLISHER;
    SIDECAR_EVENTS: "POST" "/dapr/processConfigurationEvents", Sidecar, SUBSCRIBER;
}
