//! How a document becomes a value of a type, and where it does not fit.
//!
//! A type whose deserialisation panics refuses the value like any other error: the replica goes on.

use std::{
    any::{Any, TypeId},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use contract::{
    CollectionName, Document, Revision, objects, secrets::is_within, status::RefusedValue,
};
use serde::de::DeserializeOwned;

use super::opening::{Opened, Opening, is_sealed};

/// Characters that a refusal shows of its pointer and of its error: both may quote the document.
const MAX_TEXT: usize = 200;

/// Parses the canonical JSON of a document as a value of one type, which it forgets.
type Decode = fn(&[u8]) -> Result<Arc<dyn Any + Send + Sync>, DecodeError>;

/// Decodes the documents of a collection as values of one type.
///
/// The type is known where the decoder is made and where values are read; everything in between
/// handles values of any type.
pub(crate) struct TypedDecoder {
    /// The collection whose documents it reads.
    pub(crate) collection: CollectionName,
    /// The type of its values, to find the decoder that a reader asks for.
    pub(crate) type_id: TypeId,
    /// The name of that type, for messages.
    pub(crate) type_name: &'static str,
    /// The function for the type.
    decode: Decode,
}

/// Where a value does not fit, and why.
struct DecodeError {
    /// A JSON pointer (RFC 6901); empty for the whole document.
    pointer: String,
    /// The error of the deserialisation.
    error: String,
}

/// A value that fits, and the revision that brought it.
/// Cloning shares the value.
#[derive(Clone)]
pub(crate) struct TypedValue {
    /// The revision of its document.
    pub(crate) revision: Revision,
    /// The value; its type is that of the decoder.
    value: Arc<dyn Any + Send + Sync>,
}

impl TypedValue {
    /// The value, to be kept; `None` if it is of another type.
    pub(crate) fn value<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.value).downcast().ok()
    }

    /// The value; `None` if it is of another type.
    pub(crate) fn as_ref<T: 'static>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }
}

/// Values are equal when they are the same decoded value: their types need not be comparable.
impl PartialEq for TypedValue {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }
}

impl fmt::Debug for TypedValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of revision {}", self.revision)
    }
}

impl fmt::Debug for TypedDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.collection, self.type_name)
    }
}

impl TypedDecoder {
    /// A decoder of the documents of a collection as values of `T`.
    pub(crate) fn of<T: DeserializeOwned + Send + Sync + 'static>(
        collection: CollectionName,
    ) -> Self {
        Self {
            collection,
            type_id: TypeId::of::<T>(),
            type_name: std::any::type_name::<T>(),
            decode: decode::<T>,
        }
    }

    /// The value of a document, or where and why it does not fit the type.
    ///
    /// # Errors
    /// When the value does not fit, or its deserialisation panics. The refusal shows at most
    /// [`MAX_TEXT`] characters of each text.
    pub(crate) fn decode(
        &self,
        document: &Document,
        opening: &Opening,
    ) -> Result<TypedValue, RefusedValue> {
        let refused = |pointer: &str, error: &str| RefusedValue {
            id: document.id().clone(),
            revision: document.revision(),
            pointer: shortened(pointer),
            error: shortened(error),
        };
        let opened = opening
            .open(&self.collection, document)
            .map_err(|unopened| refused(&unopened.pointer, &unopened.reason))?;
        let config = document.config_data();
        let (json, secrets) = match &opened {
            Opened::AsIs => (config, &[][..]),
            Opened::Plain { json, secrets } => (json.expose().as_bytes(), &secrets[..]),
        };
        // Code of the embedding service runs here, and one value must not stop the replica.
        let decoded = match catch_unwind(AssertUnwindSafe(|| (self.decode)(json))) {
            Ok(decoded) => decoded,
            Err(_panic) => Err(DecodeError {
                pointer: String::new(),
                error: "reading it panicked".to_owned(),
            }),
        };
        match decoded {
            Ok(value) => Ok(TypedValue {
                revision: document.revision(),
                value,
            }),
            Err(DecodeError { pointer, error }) => {
                // The error quotes what it found, which may be a secret or what is around one.
                let quotes = secrets
                    .iter()
                    .find(|secret| is_within(&pointer, secret) || is_within(secret, &pointer));
                if let Some(secret) = quotes {
                    let at = if is_within(&pointer, secret) {
                        secret
                    } else {
                        &pointer
                    };
                    let error = "it does not fit; why is not shown, because there is a secret";
                    return Err(refused(at, error));
                }
                if is_sealed(document, &pointer) {
                    let error = "the value is a sealed secret, and this service has no key for it";
                    return Err(refused(&pointer, error));
                }
                Err(refused(&pointer, &error))
            }
        }
    }
}

/// Parses JSON as a `T`.
///
/// # Errors
/// Where it does not fit, and why.
fn decode<T: DeserializeOwned + Send + Sync + 'static>(
    json: &[u8],
) -> Result<Arc<dyn Any + Send + Sync>, DecodeError> {
    match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(json))
    {
        Ok(value) => Ok(Arc::new(value)),
        Err(error) => Err(DecodeError {
            pointer: objects::pointer(error.path()),
            error: error.inner().to_string(),
        }),
    }
}

/// At most [`MAX_TEXT`] characters of a text.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
