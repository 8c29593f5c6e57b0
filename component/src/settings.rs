//! Settings of the component: those of a subscriber, and those of the socket.
//!
//! Each is an environment variable and a flag; `--help` is the reference. All errors are reported at
//! once.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use service::runtime::settings::{SettingChecks, SettingsError, or, positive};
use subscriber::settings as replica;

const NAME: &str = "confcast";
const NAME_NAME: &str = "AURA_CONFIGURATION_COMPONENT_NAME";
const FOLDER: &str = "/tmp/dapr-components-sockets";
const MODE: &str = "660";
const MODE_NAME: &str = "AURA_CONFIGURATION_COMPONENT_SOCKET_MODE";
const ACK_SECONDS: &str = "60";
const ACK_SECONDS_NAME: &str = "AURA_CONFIGURATION_COMPONENT_ACK_SECONDS";
const MAX_ACK_SECONDS: u64 = 3_600;
/// Longest name: it is part of the path of a socket.
const MAX_NAME: usize = 63;

/// Makes the configuration a Dapr component: pub/sub `pubsub.confcast` without a broker, and state store
/// `state.confcast`. It is a subscriber with a socket for the sidecar, and has all settings of one.
#[derive(Parser)]
#[command(
    name = "confcast-component",
    version,
    next_line_help = true,
    after_help = "The log filter is RUST_LOG (default: info)."
)]
// A group of its name is that of the subscriber.
#[group(skip)]
pub struct Options {
    /// Name of the component types after `pubsub.` and `state.`, and of the socket: small letters, digits and `-`. Two
    /// components on one machine need two names.
    #[arg(long, env = NAME_NAME, value_name = "NAME", default_value = NAME)]
    component_name: String,

    /// Folder of the sockets of components. It must be that of the sidecar, which reads the same variable.
    #[arg(long, env = "DAPR_COMPONENTS_SOCKETS_FOLDER", value_name = "DIR", default_value = FOLDER)]
    sockets_folder: String,

    /// Permissions of the socket, in octal. The user of the sidecar needs to write to it: 660 is for the
    /// same user or group, 666 for every user of the machine or the pod.
    #[arg(long, env = MODE_NAME, value_name = "MODE", default_value = MODE)]
    socket_mode: String,

    /// Time after which a message that the application did not answer is sent again, in seconds, from 1 to
    /// 3600.
    #[arg(long, env = ACK_SECONDS_NAME, value_name = "SECONDS", default_value = ACK_SECONDS)]
    ack_seconds: String,

    #[command(flatten)]
    replica: replica::Options,
}

/// Settings after the checks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of the socket, without its extension.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Time to answer a message.
    pub ack_deadline: Duration,
    /// Settings of the subscriber.
    pub replica: replica::Settings,
}

impl Options {
    /// Checks all settings.
    ///
    /// # Errors
    /// All settings that are wrong.
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        let mut checks = SettingChecks::default();
        let name = or(&self.component_name, NAME);
        let name = checks.check(NAME_NAME, name, component_name(name));
        let mode = or(&self.socket_mode, MODE);
        let mode = checks.check(MODE_NAME, mode, socket_mode(mode));
        let seconds = or(&self.ack_seconds, ACK_SECONDS);
        let in_range = positive(seconds)
            .ok()
            .filter(|seconds| *seconds <= MAX_ACK_SECONDS);
        let seconds = checks.check(
            ACK_SECONDS_NAME,
            seconds,
            in_range.ok_or("expected a whole number from 1 to 3600"),
        );
        let replica = match self.replica.settings() {
            Ok(replica) => Some(replica),
            Err(errors) => {
                checks.extend(errors);
                None
            }
        };
        let settings = (|| {
            Some(Settings {
                name: name?.to_owned(),
                folder: or(&self.sockets_folder, FOLDER).into(),
                mode: mode?,
                ack_deadline: Duration::from_secs(seconds?),
                replica: replica?,
            })
        })();
        checks.finish(settings)
    }
}

fn component_name(text: &str) -> Result<&str, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(is_plain) {
        Ok(text)
    } else {
        Err("expected 1 to 63 small letters, digits and -")
    }
}

fn socket_mode(text: &str) -> Result<u32, &'static str> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| text.len() <= 4 && mode & !0o777 == 0 && mode & 0o600 == 0o600)
        .ok_or("expected permissions in octal that let the owner read and write, for example 660")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(flags: &[&str]) -> Result<Settings, SettingsError> {
        Options::parse_from([&["confcast-component"], flags].concat()).settings()
    }

    #[test]
    fn all_wrong_settings_are_named_at_once() {
        let wrong = [
            "--component-name=Confcast.sock",
            "--socket-mode=888",
            "--ack-seconds=0",
            "--check-in-seconds=x",
        ];
        let SettingsError(errors) = settings(&wrong).expect_err("all are wrong");
        for (error, name) in errors.iter().zip([
            NAME_NAME,
            MODE_NAME,
            ACK_SECONDS_NAME,
            "AURA_CONFIGURATION_CHECK_IN_SECONDS",
        ]) {
            assert!(error.starts_with(name), "{error}");
        }
        assert_eq!(errors.len(), 4, "{errors:?}");
        let settings = settings(&["--socket-mode=666"]).expect("right");
        assert_eq!((settings.mode, settings.name.as_str()), (0o666, "confcast"));
    }
}
