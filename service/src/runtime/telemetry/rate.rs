//! The rate of log lines: the one rule for every line that a peer or a fault can repeat, also for
//! lines of libraries.
//!
//! Each place in the code that logs has a number of lines at once, and then one in every
//! [`REFILL`]. The next line says how many were left out. Lines below INFO are never left out: they
//! were asked for. Where the line is part of a trace, the ids of the trace and of the span end it.
//! Nothing else here decides what a line says.

use std::{
    collections::HashMap,
    fmt::{self, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use contract::text::Escaper;
use tracing::{Event, Level, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Lines of one place that are written at once: a line for each collection of a store that fails
/// as a whole.
const BURST: u32 = 30;
/// Time after which one more line of a place may be written.
const REFILL: Duration = Duration::from_secs(2);

/// Writes events by another format, as far as the rate of their place allows it.
pub(super) struct Rated<F> {
    format: F,
    end: LineEnd,
    /// One entry for each place that has logged, so the program bounds its size.
    places: Mutex<HashMap<Identifier, Place>>,
}

/// How a line ends, and what is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// In words, and as `name=value`.
    Text,
    /// As further members of the object.
    Json,
}

/// What one place in the code has written.
#[derive(Debug)]
struct Place {
    /// Lines that may be written now.
    credit: u32,
    /// When the credit was last raised.
    raised_at: Instant,
    left_out: u64,
}

impl<F> Rated<F> {
    pub(super) fn new(format: F, end: LineEnd) -> Self {
        Self {
            format,
            end,
            places: Mutex::default(),
        }
    }

    /// Whether a line is written now, and how many of its place were left out before it.
    fn due(&self, place: Identifier, now: Instant) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places
            .entry(place)
            .or_insert(Place {
                credit: BURST,
                raised_at: now,
                left_out: 0,
            })
            .due(now)
    }
}

impl Place {
    fn due(&mut self, now: Instant) -> Option<u64> {
        let periods = now.saturating_duration_since(self.raised_at).as_secs() / REFILL.as_secs();
        let raised = u32::try_from(periods).unwrap_or(BURST).min(BURST);
        if raised > 0 {
            self.credit = (self.credit + raised).min(BURST);
            self.raised_at = now;
        }
        let Some(credit) = self.credit.checked_sub(1) else {
            self.left_out += 1;
            return None;
        };
        self.credit = credit;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl<S, N, F> FormatEvent<S, N> for Rated<F>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let left_out = if *metadata.level() > Level::INFO {
            0
        } else {
            match self.due(metadata.callsite(), Instant::now()) {
                // Nothing is written, not even the end of a line.
                None => return Ok(()),
                Some(left_out) => left_out,
            }
        };
        let trace = traces::current();
        if self.end == LineEnd::Text && left_out == 0 && trace.is_none() {
            return self.format.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.format
            .format_event(context, Writer::new(&mut line), event)?;
        let line = line.trim_end();
        match self.end {
            LineEnd::Text => {
                write!(writer, "{line}")?;
                if let Some((trace, span)) = trace {
                    write!(writer, " trace_id={trace} span_id={span}")?;
                }
                if left_out > 0 {
                    write!(
                        writer,
                        " ({left_out} such lines were left out since the last one)"
                    )?;
                }
            }
            LineEnd::Json => {
                // Inside of strings an escaped character stays the same, and elsewhere there is none.
                write!(
                    Escaper(&mut writer),
                    "{}",
                    line.strip_suffix('}').unwrap_or(line)
                )?;
                if let Some((trace, span)) = trace {
                    write!(writer, ",\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"")?;
                }
                if left_out > 0 {
                    write!(writer, ",\"left_out\":{left_out}")?;
                }
                writer.write_char('}')?;
            }
        }
        writeln!(writer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_burst_and_then_one_line_in_a_period_which_counts_the_others() {
        let start = Instant::now();
        let mut place = Place {
            credit: BURST,
            raised_at: start,
            left_out: 0,
        };
        let written = (0..30_000)
            .filter(|number| {
                let now = start + Duration::from_micros(number * 10);
                place.due(now).is_some()
            })
            .count();
        assert_eq!(written, BURST as usize);
        assert_eq!(place.due(start + REFILL), Some(30_000 - u64::from(BURST)));
        assert_eq!(place.due(start + REFILL), None);
        let quiet = start + REFILL * 1_000;
        assert_eq!(place.due(quiet), Some(1));
        let credit = (0..1_000).filter(|_| place.due(quiet).is_some()).count();
        assert_eq!(credit, BURST as usize - 1, "the credit has a bound");
    }
}
