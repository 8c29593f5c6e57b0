//! The commands, one file each, and what several of them share: points of the past, differences,
//! the confirmation and the wait for replicas. A command parses its arguments, talks to services through `client`,
//! and prints a result; it keeps nothing.

mod audit;
mod auth;
mod backup;
mod confirmation;
mod dead_letters;
mod delete;
mod diff;
pub(crate) mod differences;
mod doctor;
mod export;
mod files;
mod get;
mod history;
mod import;
mod keys;
mod list;
pub(crate) mod outcome;
mod point;
mod put;
mod reap;
mod repair;
mod restore;
mod restore_epoch;
mod rollback;
mod schemas;
mod secret_keys;
mod snapshot;
mod status;
mod tail;
mod token;
mod up;
mod verify;
mod wait;

use clap::{Parser, Subcommand};
use client::{ClientError, Endpoint};
use contract::Operation;

/// Configuration that is the same in every replica: run it, change it, and check its state
#[derive(Debug, Parser)]
#[command(name = "confcast", version, arg_required_else_help = true)]
pub(crate) struct Confcast {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(up::Up),
    #[command(visible_alias = "show")]
    Get(get::Get),
    Put(put::Put),
    Delete(delete::Delete),
    List(list::List),
    Export(export::Export),
    Import(import::Import),
    Backup(backup::BackupCommand),
    Restore(restore::Restore),
    Status(status::Status),
    Doctor(doctor::Doctor),
    Tail(tail::Tail),
    Files(Box<files::FilesCommand>),
    #[command(alias = "log")]
    History(history::History),
    Diff(diff::DiffCommand),
    #[command(aliases = ["undo", "revert"])]
    Rollback(rollback::RollbackCommand),
    Snapshot(snapshot::SnapshotCommand),
    Verify(verify::Verify),
    Reap(reap::Reap),
    Repair(repair::Repair),
    DeadLetters(dead_letters::DeadLetters),
    Keys(keys::KeysCommand),
    SecretKeys(secret_keys::SecretKeysCommand),
    Schemas(schemas::SchemasCommand),
    RestoreEpoch(restore_epoch::RestoreEpoch),
    Auth(auth::Auth),
    Audit(audit::Audit),
    Token(token::TokenCommand),
    #[command(hide = true)]
    WithParent(up::with_parent::WithParent),
}

impl Confcast {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Up(command) => command.run().await,
            Command::Get(command) => command.run().await,
            Command::Put(command) => command.run().await,
            Command::Delete(command) => command.run().await,
            Command::List(command) => command.run().await,
            Command::Export(command) => command.run().await,
            Command::Import(command) => command.run().await,
            Command::Backup(command) => command.run().await,
            Command::Restore(command) => command.run().await,
            Command::Status(command) => command.run().await,
            Command::Doctor(command) => command.run().await,
            Command::Tail(command) => command.run().await,
            Command::Files(command) => command.run().await,
            Command::History(command) => command.run().await,
            Command::Diff(command) => command.run().await,
            Command::Rollback(command) => command.run().await,
            Command::Snapshot(command) => command.run().await,
            Command::Verify(command) => command.run().await,
            Command::Reap(command) => command.run().await,
            Command::Repair(command) => command.run().await,
            Command::DeadLetters(command) => command.run().await,
            Command::Keys(command) => command.run(),
            Command::SecretKeys(command) => command.run(),
            Command::Schemas(command) => command.run().await,
            Command::RestoreEpoch(command) => command.run().await,
            Command::Auth(command) => command.run().await,
            Command::Audit(command) => command.run().await,
            Command::Token(command) => command.run().await,
            Command::WithParent(command) => command.run(),
        }
    }
}

/// The kind of a change, as an option names it.
fn operation(text: &str) -> Result<Operation, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "create" => Ok(Operation::Create),
        "update" => Ok(Operation::Update),
        "delete" => Ok(Operation::Delete),
        _ => Err("expected create, update or delete"),
    }
}

/// The error of a request that a service does not support, with the reason in words; any other error
/// unchanged.
fn explained(service: &Endpoint, error: ClientError, route: &str) -> anyhow::Error {
    let is_missing = error.is_missing_route();
    let error = anyhow::Error::new(error);
    if is_missing {
        error.context(format!(
            "{} has no {route}, which a publisher of this version has",
            service.base()
        ))
    } else {
        error
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Confcast::command().debug_assert();
    }

    #[test]
    fn help_shows_the_value_of_no_variable_and_all_names_are_known() {
        use contract::environment::{NAMES, PREFIX};

        let mut commands = vec![Confcast::command()];
        while let Some(command) = commands.pop() {
            for argument in command.get_arguments() {
                let Some(name) = argument.get_env().and_then(|name| name.to_str()) else {
                    continue;
                };
                assert!(argument.is_hide_env_values_set(), "{name}");
                assert!(!name.starts_with(PREFIX) || NAMES.contains(&name), "{name}");
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn documented_command_lines_are_accepted() {
        for line in [
            "up --data /tmp/d --publisher-port 9000 --subscriber-port 9001 --subscriber-port 9002 --schemas s",
            "get ChannelConfiguration whatsapp-es --publisher http://a:1,http://b:2 --json",
            "put ChannelConfiguration whatsapp-es - --if-match 3",
            "put ChannelConfiguration whatsapp-es - --expect absent",
            "put ChannelConfiguration whatsapp-es - --wait",
            "put ChannelConfiguration whatsapp-es - --wait=all --timeout 60s",
            "put --wait=90% ChannelConfiguration whatsapp-es -",
            "import file --wait=2 --timeout 500ms",
            "rollback --set 0190b6a1 --yes --wait --timeout 10s",
            "put ChannelConfiguration whatsapp-es - --expect \"8-4273919a\"",
            "delete ChannelConfiguration whatsapp-es --if-match 3",
            "delete ChannelConfiguration whatsapp-es --expect 8-4273919a",
            "auth explain --role monitor",
            "auth explain --json",
            "auth whoami --json",
            "audit list --actor token:deploy --kind write --from 1h --json",
            "audit export audit.ndjson",
            "audit verify audit.ndjson --tips tips.json --json",
            "token create --name billing --role reader --role writer --collections A,B --id-prefix eu- --expires 90d --json",
            "token create --name first --role operator --expires never --offline --record-file tokens",
            "token list --json",
            "token revoke 0123456789abcdef --yes",
            "list ChannelConfiguration --json",
            "show ChannelConfiguration whatsapp-es --revision 41",
            "show ChannelConfiguration whatsapp-es --at -15m",
            "list ChannelConfiguration --snapshot monday",
            "history",
            "history ChannelConfiguration whatsapp-es --diff --limit 0",
            "history --user ada --op update --from 2h --to 2026-11-28T09:00:00Z --text x --set s --json",
            "diff ChannelConfiguration/whatsapp-es@41 @44",
            "diff ChannelConfiguration@2h --json",
            "diff @snapshot:monday",
            "diff ChannelConfiguration --other http://b:8080",
            "rollback ChannelConfiguration whatsapp-es --to-revision 41",
            "rollback ChannelConfiguration --at -15m --yes --reason incident",
            "rollback ChannelConfiguration --to-snapshot monday --dry-run --json",
            "rollback --set 0190b6a1 --yes",
            "snapshot create monday --reason release",
            "snapshot list --json",
            "snapshot show monday",
            "snapshot delete monday",
            "export",
            "export ChannelConfiguration SkillConfiguration -o all.ndjson",
            "import all.ndjson",
            "backup create monday.backup",
            "backup create - --recipients-file keys.txt --snapshot monday",
            "backup verify monday.backup --identity key.txt --json",
            "restore monday.backup --identity key.txt --yes",
            "restore monday.backup ChannelConfiguration SkillConfiguration --dry-run --json",
            "status --subscriber http://127.0.0.1:8081 --subscriber http://127.0.0.1:8082 --json",
            "status --strict",
            "status --collections",
            "doctor --publisher http://a:1,http://b:2 --strict --json",
            "tail",
            "tail ChannelConfiguration --since 41 --id whatsapp-es --op Update --op delete --json --strict",
            "tail --since ChannelConfiguration:41,SkillConfiguration:7 --url http://127.0.0.1:8081",
            "files ChannelConfiguration --to /config",
            "files A B --to /config --templates t --check x --reload y --once --deadline 10s --owner 101:101",
            "files A --to /config --signal HUP --pid-file /run/nginx.pid --wait-min 50ms --wait-max 1s --keep 5",
            "files A --to /config --templates t --dry-run --publisher http://a:1,http://b:2 --mode 640",
            "verify --subscriber http://127.0.0.1:8081,http://127.0.0.1:8082 --wait 30 --json",
            "reap",
            "reap --redis-url rediss://user:secret@redis:6380/1 --groups a-*,b-* --groups c-* --idle-seconds 60 --apply --json",
            "repair",
            "dead-letters list --collection ChannelConfiguration --reason dropped --open --limit 20 --json",
            "dead-letters show 9f86d081884c7d659a2feaa0c55ad015 --json",
            "dead-letters replay 9f86d081884c7d659a2feaa0c55ad015 --yes",
            "dead-letters discard --replayed --yes --json",
            "dead-letters discard --all",
            "repair ChannelConfiguration SkillConfiguration --yes --discard --json",
            "schemas",
            "schemas --out contracts --dir schemas --no-typescript",
            "schemas check --dir schemas --publisher http://a:1 --json",
            "schemas check schemas/ChannelConfiguration.schema.json",
            "keys create keys",
            "keys rotate keys --after 1h",
            "keys list keys --json",
            "restore-epoch",
            "restore-epoch --yes",
            "restore-epoch --adopt",
            "restore-epoch --adopt 1a2b3c4d --yes",
            "restore-epoch --counter 1900000000000",
        ] {
            Confcast::try_parse_from(format!("confcast {line}").split(' ')).expect(line);
        }
    }

    #[test]
    fn a_parsed_command_does_not_show_a_password() {
        for line in [
            "doctor --publisher http://user:hunter2@host,http://b",
            "status --publisher http://user:hunter2@host --subscriber http://user:hunter2@a,http://b",
            "tail --url http://user:hunter2@host",
            "reap --redis-url redis://user:hunter2@redis",
            "reap --redis-url redis-sentinel://a?sentinelServiceName=m&sentinelPassword=hunter2",
        ] {
            let line = format!("confcast {line}");
            let parsed = Confcast::try_parse_from(line.split(' ')).expect("a command");
            let shown = format!("{parsed:?}");
            assert!(!shown.contains("hunter"), "{shown}");
        }
    }

    #[test]
    fn errors_name_the_argument_and_the_remedy() {
        for (line, text) in [
            ("get channel/x a", "a letter, then at most 63"),
            ("get ChannelConfiguration a/b", "1 to 128 of"),
            (
                "list ChannelConfiguration --publisher 127.0.0.1:8080",
                "expected a URL like",
            ),
            (
                "status --publisher http://user:hunter/2@host",
                "'--publisher <URL>' (AURA_CONFIGURATION_API_URL): expected a URL like",
            ),
            ("tail --url http://user:hunter2@", "--url"),
            (
                "status --subscriber ftp://user:hunter2@host",
                "--subscriber",
            ),
            ("put ChannelConfiguration a", "<FILE>"),
            ("up --publisher-port 0", "1..=65535"),
            (
                "delete ChannelConfiguration a --if-match new",
                "absent, present",
            ),
            ("tail --op upsert", "create, update or delete"),
            ("restore-epoch --renew --adopt", "--adopt"),
            ("repair --discard", "--yes"),
            ("backup create f --recipient age1", "an X25519 key, age1"),
            (
                "backup create f --recipient AGE-SECRET-KEY-hunter2",
                "stays secret",
            ),
            ("restore f --yes --dry-run", "--dry-run"),
            ("files --to d", "<COLLECTION>"),
            ("files A", "--to"),
            ("files A --to d --signal HUP", "--pid-file"),
            ("files A --to d --mode 888", "an octal mode"),
            ("files A --to d --mode 0066", "an octal mode"),
            ("files A --to d --owner nginx", "USER:GROUP as numbers"),
            ("files A --to d --check \"x", "a quote"),
            ("files A --to d --keep 0", "1..=100"),
            ("files A --to d --once --dry-run", "--dry-run"),
            ("history --from yesterday", "2h 30m ago"),
            ("show A a --revision 1 --at 15m", "cannot be used with"),
            ("diff A@yesterday", "snapshot:NAME"),
            ("diff A --other http://user:hunter/2@host", "--other"),
            ("rollback A a", "--to-revision"),
            ("rollback A --to-revision 1 --at 15m", "cannot be used with"),
            ("rollback A --set s", "cannot be used with"),
            ("rollback --to-revision 1", "<COLLECTION>"),
            ("snapshot create a/b", "1 to 64"),
            ("token create --name a", "--role"),
            ("token create --name a --role admin", "role"),
            ("token create --name a --role reader --expires soon", "90d"),
            (
                "token create --name a --role reader --record-file f",
                "--offline",
            ),
            ("token revoke 1", "16 of"),
            (
                "dead-letters list --reason lost",
                "dropped, expired or not-taken",
            ),
            ("dead-letters show 9f86", "32 lower-case"),
            ("dead-letters discard --all --open", "--open"),
            ("schemas check --dir a b.schema.json", "--dir"),
            ("reap --groups *", "every group"),
            (
                "reap --redis-url redis://user:hunter/2@redis",
                "AURA_REDIS_URL",
            ),
            (
                "reap --redis-url redis://user:hunter2@redis/x",
                "AURA_REDIS_URL",
            ),
            ("reap --idle-seconds 0", "1.."),
        ] {
            let error =
                Confcast::try_parse_from(format!("confcast {line}").split(' ')).expect_err(line);
            assert!(error.to_string().contains(text), "{line}: {error}");
            assert!(!error.to_string().contains("hunter"), "{line}: {error}");
        }
    }
}
