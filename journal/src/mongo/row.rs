//! The row of one aggregate: what it says, how it is stored, and which events continue it. Nothing
//! here reads or writes.

use mongodb::bson::{self, Bson, Document, doc};

use crate::{AggregateId, AppendId, Delivered, View};

/// Members of a row that are not the view's.
const OWN: [&str; 3] = ["_id", "version", "append"];

/// What a row says.
#[derive(Debug)]
pub(super) struct Row<V> {
    pub(super) version: u64,
    /// The append of the newest event in it. It tells two histories of the same length apart.
    pub(super) append: Option<AppendId>,
    pub(super) view: V,
}

impl<V: Default> Row<V> {
    pub(super) fn absent() -> Self {
        Self {
            version: 0,
            append: None,
            view: V::default(),
        }
    }
}

impl<V> Row<V> {
    pub(super) fn apply<E>(&mut self, event: &E, version: u64, append: &AppendId)
    where
        V: View<Event = E>,
    {
        self.view.apply(event);
        self.version = version;
        self.append = Some(append.clone());
    }
}

/// The row with the events, if each is the one after the row. Without events, or with another one,
/// only the journal knows what comes next, and the row is returned as it was read: nothing was
/// applied.
pub(super) fn continued<V: View>(
    mut row: Row<V>,
    events: &[&Delivered<V::Event>],
) -> Result<Row<V>, Row<V>> {
    let mut version = row.version;
    let mut append = row.append.as_ref();
    for event in events {
        if event.version != version + 1 || event.previous.as_ref() != append {
            return Err(row);
        }
        version = event.version;
        append = Some(&event.append);
    }
    if events.is_empty() {
        return Err(row);
    }
    for event in events {
        row.apply(&event.event, event.version, &event.append);
    }
    Ok(row)
}

/// Reads a row.
///
/// # Errors
/// In words, when another program wrote it.
pub(super) fn row_of<V: View>(mut row: Document) -> Result<Row<V>, String> {
    let own: Vec<_> = OWN.iter().map(|name| row.remove(name)).collect();
    let [
        Some(_id),
        Some(Bson::Int64(version)),
        Some(Bson::String(append)),
    ] = own.as_slice()
    else {
        return Err("it has no version or no append".to_owned());
    };
    Ok(Row {
        version: u64::try_from(*version).map_err(|it| it.to_string())?,
        append: Some(append.parse().map_err(|it| format!("append: {it}"))?),
        view: bson::deserialize_from_document(row).map_err(|it| it.to_string())?,
    })
}

/// Makes a row.
///
/// # Errors
/// In words, when the view cannot be a part of it.
pub(super) fn document<V: View>(id: &AggregateId, row: &Row<V>) -> Result<Document, String> {
    let view = bson::serialize_to_document(&row.view).map_err(|it| it.to_string())?;
    let version = i64::try_from(row.version).map_err(|it| it.to_string())?;
    let append = row.append.as_ref().map(AppendId::as_str);
    let mut document = doc! { "_id": id.as_str(), "version": version, "append": append };
    for (name, value) in view {
        if OWN.contains(&name.as_str()) {
            return Err(format!(
                "the view has a member {name:?}, which is the row's"
            ));
        }
        document.insert(name, value);
    }
    Ok(document)
}
