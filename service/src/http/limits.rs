//! The limits of the services that an operator may change: the one list of their names, defaults and
//! ranges. What each protects and what happens beyond it is in `docs/operations/limits.md`.
//!
//! A limit that is part of the wire, or that all publishers of a store must share, is a constant next
//! to what it limits. Nothing here counts or refuses.

use std::{num::NonZeroU32, time::Duration};

use super::{
    bodies::BodyLimits,
    connections::ConnectionLimits,
    rate::{BadCredentials, RateLimits},
};
use crate::runtime::{
    limits::max_connections,
    settings::{SettingChecks, or},
};

/// Setting: readers of the live feed.
pub const STREAMS: &str = "AURA_CONFIGURATION_LIMIT_STREAMS";
/// Setting: readers of the live feed of one caller.
pub const STREAMS_PER_CALLER: &str = "AURA_CONFIGURATION_LIMIT_STREAMS_PER_CALLER";
/// Setting: lists under way.
pub const LISTS: &str = "AURA_CONFIGURATION_LIMIT_LISTS";
/// Setting: pages of history and rollbacks under way.
pub const HISTORIES: &str = "AURA_CONFIGURATION_LIMIT_HISTORIES";
/// Setting: snapshots under way.
pub const LOADS: &str = "AURA_CONFIGURATION_LOADS";
/// Setting: open connections.
pub const CONNECTIONS: &str = "AURA_CONFIGURATION_LIMIT_CONNECTIONS";
/// Setting: time for the body of a request.
pub const BODY_SECONDS: &str = "AURA_CONFIGURATION_LIMIT_BODY_SECONDS";
/// Setting: bytes of all bodies.
pub const BODIES_BYTES: &str = "AURA_CONFIGURATION_LIMIT_BODIES_BYTES";
/// Setting: reads of one caller.
pub const READS_PER_SECOND: &str = "AURA_CONFIGURATION_LIMIT_READS_PER_SECOND";
/// Setting: writes of one caller.
pub const WRITES_PER_SECOND: &str = "AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND";
/// Setting: requests of one replica, or of all replicas of one address.
pub const FOLLOWS_PER_SECOND: &str = "AURA_CONFIGURATION_LIMIT_FOLLOWS_PER_SECOND";
/// Setting: credentials of one address that are not valid.
pub const BAD_CREDENTIALS_PER_MINUTE: &str = "AURA_CONFIGURATION_LIMIT_BAD_CREDENTIALS_PER_MINUTE";

/// The arguments of a list of limits, and their values: whole numbers, each within its range.
macro_rules! limits {
    (
        $(#[$of_args:meta])* $Args:ident
        $(#[$of_values:meta])* $Values:ident
        $($(#[$doc:meta])* $field:ident: $name:literal = $default:literal in $min:literal..=$max:literal;)*
    ) => {
        $(#[$of_args])*
        #[derive(Debug, Clone, Default, clap::Args)]
        pub struct $Args {
            $($(#[$doc])*
            #[arg(long, env = $name, value_name = "NUMBER", default_value = stringify!($default))]
            $field: String,)*
        }

        $(#[$of_values])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $Values {
            $($(#[$doc])* pub $field: usize,)*
        }

        impl Default for $Values {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }

        impl $Args {
            /// Checks the settings; `None` when an error was recorded.
            pub fn check(&self, checks: &mut SettingChecks) -> Option<$Values> {
                $(let $field = {
                    let given = or(&self.$field, stringify!($default));
                    checks.check($name, given, within(given, $min, $max))
                };)*
                Some($Values { $($field: $field?),* })
            }
        }

        impl $Values {
            /// Name, default, least and largest value of each.
            pub const RANGES: &'static [(&'static str, usize, usize, usize)] =
                &[$(($name, $default, $min, $max)),*];
        }
    };
}

fn within(text: &str, min: usize, max: usize) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| format!("expected a whole number from {min} to {max}"))
}

limits! {
    /// The limits of both services, as texts.
    LimitsArgs
    /// The limits of both services.
    LimitSettings

    /// Most open connections, from 0 to 100000. 0 = three quarters of the limit of open files, 20000
    /// at most.
    ///
    /// A larger number than the limit of open files allows is lowered to it.
    limit_connections: "AURA_CONFIGURATION_LIMIT_CONNECTIONS" = 0 in 0..=100000;

    /// Most open connections of one address, from 0 to 100000. 0 = no limit besides that of all
    /// connections.
    ///
    /// Leave it at 0 where clients come through a sidecar or a proxy: they share an address.
    limit_connections_per_address: "AURA_CONFIGURATION_LIMIT_CONNECTIONS_PER_ADDRESS" = 0 in 0..=100000;

    /// Time for the head of a request to arrive, in seconds, from 1 to 60.
    limit_head_seconds: "AURA_CONFIGURATION_LIMIT_HEAD_SECONDS" = 5 in 1..=60;

    /// Time after which a connection without a request is closed, in seconds, from 1 to 3600.
    ///
    /// A proxy in front has to close its idle connections earlier, or it sends requests into one that
    /// was just closed.
    limit_idle_seconds: "AURA_CONFIGURATION_LIMIT_IDLE_SECONDS" = 75 in 1..=3600;

    /// How long a reader may take nothing of an answer before its connection is closed, in seconds,
    /// from 1 to 300.
    limit_reader_seconds: "AURA_CONFIGURATION_LIMIT_READER_SECONDS" = 10 in 1..=300;

    /// Time for the body of a request to arrive, in seconds, from 1 to 300.
    limit_body_seconds: "AURA_CONFIGURATION_LIMIT_BODY_SECONDS" = 10 in 1..=300;

    /// Memory for the bodies of all requests under way that are longer than 64 KiB, in bytes, from
    /// 8388608 to 2147483648.
    limit_bodies_bytes: "AURA_CONFIGURATION_LIMIT_BODIES_BYTES" = 67108864 in 8388608..=2147483648;

    /// Most readers of the live feed, from 1 to 50000; half of the connections at most.
    limit_streams: "AURA_CONFIGURATION_LIMIT_STREAMS" = 1024 in 1..=50000;

    /// Most readers of the live feed of one caller, from 0 to 50000. 0 = for a caller with a
    /// credential three quarters of all, else no limit besides that of all readers.
    ///
    /// A caller is the name of a credential; without one, an address.
    limit_streams_per_caller: "AURA_CONFIGURATION_LIMIT_STREAMS_PER_CALLER" = 0 in 0..=50000;

    /// Most lists of documents that are sent at the same time, from 1 to 1000.
    limit_lists: "AURA_CONFIGURATION_LIMIT_LISTS" = 32 in 1..=1000;

    /// Memory for the texts of all snapshots that are being read, in bytes, from 1048576 to 2147483648.
    ///
    /// Loads of the same moment share one text. Beyond it the oldest pieces are dropped: a load that
    /// begins then reads the store again, and one that is so far behind that it needs them is cut off.
    limit_snapshot_bytes: "AURA_CONFIGURATION_LIMIT_SNAPSHOT_BYTES" = 67108864 in 1048576..=2147483648;

    /// Reads of one caller in a second, from 0 to 1000000. 0 = no limit. As many may come at once.
    limit_reads_per_second: "AURA_CONFIGURATION_LIMIT_READS_PER_SECOND" = 0 in 0..=1000000;

    /// Requests that replicas send (check-ins, feed, snapshots, reports of dropped events) of one
    /// caller in a second, from 0 to 1000000. 0 = no limit.
    ///
    /// They are counted apart from reads and writes, so that other clients of the same address do not
    /// use them up. Replicas that share a credential or an address share the number.
    limit_follows_per_second: "AURA_CONFIGURATION_LIMIT_FOLLOWS_PER_SECOND" = 0 in 0..=1000000;

    /// Credentials that are not valid, of one address in a minute, from 1 to 100000. Beyond it they
    /// are answered 429; valid ones are accepted.
    limit_bad_credentials_per_minute: "AURA_CONFIGURATION_LIMIT_BAD_CREDENTIALS_PER_MINUTE" = 60 in 1..=100000;
}

limits! {
    /// The limits of a publisher alone, as texts.
    PublisherLimitsArgs
    /// The limits of a publisher alone.
    PublisherLimits

    /// Writes of one caller in a second, from 0 to 1000000. 0 = no limit. As many may come at once; a
    /// change set is one write.
    limit_writes_per_second: "AURA_CONFIGURATION_LIMIT_WRITES_PER_SECOND" = 0 in 0..=1000000;

    /// Most writes that wait to be committed, from 1 to 65536.
    limit_queued_writes: "AURA_CONFIGURATION_LIMIT_QUEUED_WRITES" = 4096 in 1..=65536;

    /// Most check-ins that wait for an answer, from 1 to 65536.
    limit_check_ins: "AURA_CONFIGURATION_LIMIT_CHECK_INS" = 4096 in 1..=65536;

    /// Most pages of history that are read, and rollbacks that are planned, at the same time, from 1
    /// to 1000.
    limit_histories: "AURA_CONFIGURATION_LIMIT_HISTORIES" = 8 in 1..=1000;

    /// LOCAL: most subscribers that are known by their check-ins alone, from 0 to 10000.
    limit_local_subscribers: "AURA_CONFIGURATION_LIMIT_LOCAL_SUBSCRIBERS" = 256 in 0..=10000;
}

impl LimitSettings {
    /// The limits of connections, for the files that this process may open. Call it after
    /// [`crate::runtime::limits::raise_open_files`].
    pub fn connections(&self) -> ConnectionLimits {
        let possible = max_connections();
        let max = match self.limit_connections {
            0 => possible,
            wanted => {
                let files = crate::runtime::limits::connections_of_files();
                if wanted > files {
                    tracing::warn!(
                        "{CONNECTIONS}={wanted}: the limit of open files allows {files} connections"
                    );
                }
                wanted.min(files)
            }
        };
        let seconds = |seconds: usize| Duration::from_secs(seconds as u64);
        ConnectionLimits {
            max,
            per_address: match self.limit_connections_per_address {
                0 => max,
                limit => limit.min(max),
            },
            head: seconds(self.limit_head_seconds),
            idle: seconds(self.limit_idle_seconds),
            stalled: seconds(self.limit_reader_seconds),
            ..ConnectionLimits::with_max(max)
        }
    }

    /// The limits of bodies.
    pub fn bodies(&self) -> BodyLimits {
        BodyLimits {
            time: Duration::from_secs(self.limit_body_seconds as u64),
            budget: self.limit_bodies_bytes,
            ..BodyLimits::default()
        }
    }

    /// Most readers of the live feed, of all callers and of one with a credential; streams never take
    /// the last connections.
    pub fn streams(&self, connections: &ConnectionLimits) -> StreamLimits {
        let max = self.limit_streams.min((connections.max / 2).max(1));
        let per_caller = self.limit_streams_per_caller;
        StreamLimits {
            max,
            per_credential: match per_caller {
                0 => max - max / 4,
                limit => limit.min(max),
            },
            per_address: match per_caller {
                0 => max,
                limit => limit.min(max),
            },
        }
    }

    /// The counters of credentials that are not valid.
    pub fn bad_credentials(&self) -> BadCredentials {
        let per_minute = u32::try_from(self.limit_bad_credentials_per_minute).unwrap_or(u32::MAX);
        BadCredentials::new(NonZeroU32::new(per_minute).unwrap_or(NonZeroU32::MIN))
    }

    /// How often callers may send requests. `writes` is the limit of a publisher.
    pub fn rates(&self, writes: usize) -> RateLimits {
        let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).try_into().ok();
        RateLimits {
            reads: number(self.limit_reads_per_second),
            writes: number(writes),
            follows: number(self.limit_follows_per_second),
        }
    }
}

/// How many readers may follow the live feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamLimits {
    /// All together.
    pub max: usize,
    /// Of a caller with a credential.
    pub per_credential: usize,
    /// Of the callers of an address without one.
    pub per_address: usize,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        #[command(flatten)]
        limits: LimitsArgs,
        #[command(flatten)]
        publisher: PublisherLimitsArgs,
    }

    fn ranges() -> impl Iterator<Item = (&'static str, usize, usize, usize)> {
        let all = LimitSettings::RANGES.iter().chain(PublisherLimits::RANGES);
        all.copied()
    }

    /// The settings with one value; all errors.
    fn check(name: &str, value: &str) -> Result<(), String> {
        let flag = name.trim_start_matches("AURA_CONFIGURATION_");
        let flag = format!("--{}={value}", flag.to_ascii_lowercase().replace('_', "-"));
        let options = Options::try_parse_from(["program", &flag]).expect("a flag");
        let mut checks = SettingChecks::default();
        let limits = options.limits.check(&mut checks);
        let publisher = options.publisher.check(&mut checks);
        let checked = checks.finish(limits.zip(publisher));
        checked.map(|_limits| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn each_limit_takes_its_edges_and_refuses_what_is_beyond_them() {
        for (name, default, min, max) in ranges() {
            for taken in [default, min, max] {
                assert_eq!(check(name, &taken.to_string()), Ok(()), "{name}");
            }
            assert_eq!(
                check(name, ""),
                Ok(()),
                "{name}: an empty text is the default"
            );
            let beyond = [
                (max + 1).to_string(),
                "-1".to_owned(),
                "1.5".to_owned(),
                "many".to_owned(),
            ];
            let below = min.checked_sub(1).map(|below| below.to_string());
            for refused in beyond.into_iter().chain(below) {
                let error = check(name, &refused).expect_err(name);
                let range = format!("from {min} to {max}");
                assert!(error.contains(name) && error.contains(&range), "{error}");
            }
        }
    }

    #[test]
    fn the_help_of_each_limit_has_its_range_and_the_list_of_names_has_its_name() {
        let command = Options::command();
        for (name, default, min, max) in ranges() {
            let argument = command
                .get_arguments()
                .find(|argument| argument.get_env().is_some_and(|env| env == name))
                .expect(name);
            let help = argument.get_help().map(ToString::to_string);
            let range = format!("from {min} to {max}");
            assert!(help.expect(name).contains(&range), "{name}");
            assert_eq!(
                argument.get_default_values(),
                [default.to_string().as_str()]
            );
            assert!(contract::environment::NAMES.contains(&name), "{name}");
        }
    }

    #[test]
    fn streams_never_take_the_last_connections_and_one_credential_never_all_streams() {
        let limits = LimitSettings::default();
        let streams = limits.streams(&ConnectionLimits::with_max(100));
        assert_eq!(
            (streams.max, streams.per_credential, streams.per_address),
            (50, 38, 50)
        );
        let limits = LimitSettings {
            limit_streams_per_caller: 3,
            ..limits
        };
        let streams = limits.streams(&ConnectionLimits::with_max(10_000));
        assert_eq!(
            (streams.max, streams.per_credential, streams.per_address),
            (1_024, 3, 3)
        );
    }
}
