//! How a document becomes a value of a type, and where it does not fit.
//!
//! A value that panics while it is read is refused like any other: it takes nothing else down.

use std::{
    any::{Any, TypeId},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use contract::{CollectionName, Document, Revision, status::RefusedValue};
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};

/// A refusal shows this much of its pointer and of its error: both may quote what was sent.
const MAX_TEXT: usize = 200;

type Read = fn(&[u8]) -> Result<Arc<dyn Any + Send + Sync>, Fault>;

/// A collection read as a type.
pub(crate) struct Lens {
    pub(crate) collection: CollectionName,
    pub(crate) kind: TypeId,
    pub(crate) type_name: &'static str,
    read: Read,
}

/// Where a value does not fit, and why.
struct Fault {
    pointer: String,
    error: String,
}

/// A value that fits, and the revision that brought it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) revision: Revision,
    value: Arc<dyn Any + Send + Sync>,
}

impl Held {
    pub(crate) fn value<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.value).downcast().ok()
    }

    pub(crate) fn look<T: 'static>(&self) -> Option<&T> {
        self.value.downcast_ref()
    }
}

/// Values of any type are the same when they were read once.
impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value of revision {}", self.revision)
    }
}

impl fmt::Debug for Lens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.collection, self.type_name)
    }
}

impl Lens {
    pub(crate) fn of<T: DeserializeOwned + Send + Sync + 'static>(
        collection: CollectionName,
    ) -> Self {
        let (kind, type_name) = (TypeId::of::<T>(), std::any::type_name::<T>());
        Self {
            collection,
            kind,
            type_name,
            read: read::<T>,
        }
    }

    pub(crate) fn read(&self, document: &Document) -> Result<Held, RefusedValue> {
        let config = document.config_data();
        let panicked = |_panic| {
            Err(Fault {
                pointer: String::new(),
                error: "reading it panicked".to_owned(),
            })
        };
        let read = catch_unwind(AssertUnwindSafe(|| (self.read)(&config))).unwrap_or_else(panicked);
        read.map(|value| Held {
            revision: document.revision(),
            value,
        })
        .map_err(|fault| RefusedValue {
            id: document.id().clone(),
            revision: document.revision(),
            pointer: shortened(&fault.pointer),
            error: shortened(&fault.error),
        })
    }
}

fn read<T: DeserializeOwned + Send + Sync + 'static>(
    json: &[u8],
) -> Result<Arc<dyn Any + Send + Sync>, Fault> {
    match serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_slice(json))
    {
        Ok(value) => Ok(Arc::new(value)),
        Err(error) => Err(Fault {
            pointer: pointer(error.path()),
            error: error.inner().to_string(),
        }),
    }
}

/// RFC 6901.
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

pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}
