//! How a document becomes a value of a type, and where it does not fit.
//!
//! A type whose deserialisation panics refuses the value like any other error: the replica goes on.

use std::{
    any::{Any, TypeId},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use contract::{CollectionName, Document, Revision, status::RefusedValue};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

/// Characters that a refusal shows of its pointer and of its error: both may quote the document.
const MAX_TEXT: usize = 200;

type Decode = fn(&[u8]) -> Result<Arc<dyn Any + Send + Sync>, DecodeError>;

/// Decodes the documents of a collection as values of one type.
pub(crate) struct TypedDecoder {
    pub(crate) collection: CollectionName,
    pub(crate) type_id: TypeId,
    pub(crate) type_name: &'static str,
    decode: Decode,
}

/// Where a value does not fit, and why.
struct DecodeError {
    pointer: String,
    error: String,
}

/// A value that fits, and the revision that brought it.
#[derive(Clone)]
pub(crate) struct TypedValue {
    pub(crate) revision: Revision,
    value: Arc<dyn Any + Send + Sync>,
}

impl TypedValue {
    pub(crate) fn value<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.value).downcast().ok()
    }

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
    pub(crate) fn decode(&self, document: &Document) -> Result<TypedValue, RefusedValue> {
        let config = document.config_data();
        let decoded = match catch_unwind(AssertUnwindSafe(|| (self.decode)(&config))) {
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
            Err(error) => Err(RefusedValue {
                id: document.id().clone(),
                revision: document.revision(),
                pointer: shortened(&error.pointer),
                error: shortened(&error.error),
            }),
        }
    }
}

fn decode<T: DeserializeOwned + Send + Sync + 'static>(
    json: &[u8],
) -> Result<Arc<dyn Any + Send + Sync>, DecodeError> {
    match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(json))
    {
        Ok(value) => Ok(Arc::new(value)),
        Err(error) => Err(DecodeError {
            pointer: pointer(error.path()),
            error: error.inner().to_string(),
        }),
    }
}

/// The path as a JSON pointer (RFC 6901).
fn pointer(path: &Path) -> String {
    let token = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key: name } | Segment::Enum { variant: name } => {
            format!("/{}", name.replace('~', "~0").replace('/', "~1"))
        }
        Segment::Unknown => String::new(),
    };
    path.iter().map(token).collect()
}

/// At most [`MAX_TEXT`] characters of a text.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
