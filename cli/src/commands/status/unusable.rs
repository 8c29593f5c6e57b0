//! What a replica holds and its service cannot use: refused values and failing handlers, listed and
//! counted. Nothing is judged here.

use contract::{
    CollectionName,
    status::{HandlerStatus, RefusedValue},
};

/// What a replica holds and its service cannot use.
#[derive(Debug, Default)]
pub(super) struct Unusable {
    /// One line for each that is listed, and one for those that are not.
    pub(super) lines: Vec<String>,
    /// How many there are.
    pub(super) number: u64,
}

impl Unusable {
    /// From the listed refusals of each collection with their exact number, and from the listed
    /// handlers with the exact number of failing ones; a number is 0 from an older replica.
    pub(super) fn new<'a>(
        refusals: impl Iterator<Item = (&'a CollectionName, &'a [RefusedValue], u64)>,
        handlers: &[HandlerStatus],
        failing: u64,
    ) -> Self {
        let mut all = Self::default();
        for (collection, refusals, number) in refusals {
            let lines = refusals.iter().map(|refusal| {
                format!(
                    "{collection}/{} at revision {} is refused at {:?}: {}",
                    refusal.id, refusal.revision, refusal.pointer, refusal.error
                )
            });
            all.add(lines, number, |more| {
                format!("{more} more refused values of {collection}")
            });
        }
        let lines = handlers
            .iter()
            .filter(|handler| handler.is_failing())
            .map(|handler| {
                let error = handler.error.as_deref().unwrap_or("it gave no error");
                format!("the handler {} fails: {error}", handler.name)
            });
        all.add(lines, failing, |more| {
            format!("{more} more failing handlers")
        });
        all
    }

    /// Adds a line for each that is listed, and one for those that are not.
    fn add(
        &mut self,
        lines: impl Iterator<Item = String>,
        number: u64,
        unlisted: impl Fn(u64) -> String,
    ) {
        let before = self.lines.len();
        self.lines.extend(lines);
        let listed = (self.lines.len() - before) as u64;
        self.number = self.number.saturating_add(number.max(listed));
        let more = number.saturating_sub(listed);
        if more > 0 {
            self.lines.push(format!("and {}", unlisted(more)));
        }
    }
}
