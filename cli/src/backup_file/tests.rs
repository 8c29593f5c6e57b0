use std::{fs, io::Write as _, path::PathBuf};

use age::secrecy::ExposeSecret as _;
use clap::Parser as _;
use contract::{CanonicalJson, Digest, Document, Head};
use tempfile::TempDir;

use super::*;

/// A folder with files of backups.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("file");
        fs::write(&path, bytes).expect("written");
        path
    }

    /// The file read to its end, with the identity if it needs one.
    fn read(
        &self,
        bytes: &[u8],
        identity: Option<&age::x25519::Identity>,
    ) -> anyhow::Result<Backup> {
        let key = self.0.path().join("key");
        let mut identities = Identities::default();
        if let Some(identity) = identity {
            let text = identity.to_string();
            fs::write(&key, text.expose_secret()).expect("written");
            let given = ["restore", "--identity", key.to_str().expect("a path")];
            identities = Reads::try_parse_from(given).expect("a command").identities;
        }
        BackupFile::open(&self.file(bytes), &identities)?.read(|_document| Ok(()))
    }

    fn refusal(&self, bytes: &[u8]) -> String {
        let refused = self.read(bytes, None).expect_err("a refusal");
        format!("{refused:#}")
    }
}

#[derive(clap::Parser)]
struct Reads {
    #[command(flatten)]
    identities: Identities,
}

#[derive(clap::Parser)]
struct Writes {
    #[command(flatten)]
    recipients: Recipients,
}

fn documents() -> Vec<Document> {
    let value =
        CanonicalJson::parse(br#"{"text":"a value of some length, some length, some length"}"#);
    let value = value.expect("JSON");
    let ids = ["a", "b", "c"].into_iter().zip(1..);
    ids.map(|(id, revision)| Document::new(id.parse().expect("an id"), revision, &value))
        .collect()
}

fn header() -> Header {
    let epoch: Epoch = "9f86d081-7".parse().expect("an epoch");
    let documents = documents();
    let digest = documents.iter().fold(Digest::default(), |sum, document| {
        sum.with(document.id(), document.revision(), document.crc())
    });
    let head = Head {
        revision: 3,
        count: 3,
        digest,
        ..Head::empty("Skills".parse().expect("a name"), epoch)
    };
    Header::now(epoch, vec![head], None)
}

fn written(recipients: &[age::x25519::Recipient]) -> (Vec<u8>, Backup) {
    let mut writer = BackupWriter::begin(Vec::new(), recipients, header()).expect("begun");
    for document in documents() {
        let mut line = Vec::new();
        document.snapshot_line(&"Skills".parse().expect("a name"), &mut line);
        writer.document(line.trim_ascii_end()).expect("written");
    }
    writer.finish().expect("an end")
}

fn packed(text: &str) -> Vec<u8> {
    zstd::bulk::compress(text.as_bytes(), 1).expect("compressed")
}

#[test]
fn a_backup_is_read_as_it_was_written_by_whoever_has_a_key() {
    let folder = Folder::new();
    let keys = [(); 2].map(|()| age::x25519::Identity::generate());
    let recipients = keys.each_ref().map(age::x25519::Identity::to_public);
    let (encrypted, backup) = written(&recipients);
    assert!(backup.encrypted && encrypted.starts_with(b"age-encryption.org/v1"));
    for key in &keys {
        let read = folder.read(&encrypted, Some(key)).expect("read");
        assert_eq!((read.documents, read.sha256), (3, backup.sha256));
    }
    let other = age::x25519::Identity::generate();
    let refused = folder.read(&encrypted, Some(&other)).expect_err("no key");
    assert!(
        format!("{refused:#}").contains("other recipients"),
        "{refused:#}"
    );
    assert!(folder.refusal(&encrypted).contains("--identity"));
}

#[test]
fn no_changed_byte_and_no_cut_passes() {
    let folder = Folder::new();
    let key = age::x25519::Identity::generate();
    for (bytes, backup, key) in [
        {
            let (bytes, backup) = written(&[]);
            (bytes, backup, None)
        },
        {
            let (bytes, backup) = written(&[key.to_public()]);
            (bytes, backup, Some(&key))
        },
    ] {
        folder.read(&bytes, key).expect("whole");
        // A key is opened each time.
        let step = if key.is_some() { 7 } else { 1 };
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            // A bit of the compression has no meaning.
            if let Ok(read) = folder.read(&changed, key) {
                assert!(key.is_none() && read.sha256 == backup.sha256, "byte {at}");
            }
        }
        for length in (0..bytes.len()).step_by(step) {
            folder.read(&bytes[..length], key).expect_err("cut off");
        }
        let longer = [&bytes[..], &packed("{}\n")].concat();
        folder.read(&longer, key).expect_err("more follows");
    }
}

#[test]
fn what_is_no_backup_is_refused_in_words() {
    let folder = Folder::new();
    let (bytes, _backup) = written(&[]);
    let text =
        String::from_utf8(zstd::bulk::decompress(&bytes, 1 << 20).expect("text")).expect("text");
    let newer = text.replacen("\"confcastBackup\":1", "\"confcastBackup\":2", 1);
    let edited = text.replacen("\"epoch\":\"9f86d081-7\"", "\"epoch\":\"9f86d081-8\"", 2);
    let lines: Vec<&str> = text.lines().collect();
    let missing = [&lines[..2], &lines[3..]].concat().join("\n") + "\n";
    for (bytes, expected) in [
        (Vec::new(), "the file is empty"),
        (b"{\"epoch\":\"a-1\"}\n".to_vec(), "`confcast import`"),
        (b"SQLite format 3\0".to_vec(), "database file"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n".to_vec(), "age -d"),
        (b"\x1f\x8b\x08".to_vec(), "another kind"),
        (packed("hello\n"), "other text"),
        (packed("{\"epoch\":\"a-1\",\"heads\":[]}\n"), "other text"),
        (packed(""), "cut off"),
        (packed(&newer), "reads the format 1"),
        (packed(&edited), "its SHA-256 is"),
        (packed(&missing), "counts 3 documents, but 2 arrived"),
        (packed(&lines[..2].join("\n")), "cut off"),
        (bytes[..bytes.len() / 2].to_vec(), "cut off"),
    ] {
        let refusal = folder.refusal(&bytes);
        assert!(refusal.contains(expected), "{expected}: {refusal}");
    }
    // A pipe that nobody writes to is no file to wait for.
    let refused = BackupFile::open("/dev/null".as_ref(), &Identities::default());
    let refused = format!("{:#}", refused.err().expect("refused"));
    assert!(refused.contains("regular file"), "{refused}");
}

#[test]
fn a_text_without_end_is_given_up_at_the_longest_line() {
    let folder = Folder::new();
    let mut text = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    for _mebibyte in 0..64 {
        text.write_all(&[b' '; 1 << 20]).expect("written");
    }
    let refusal = folder.refusal(&text.finish().expect("compressed"));
    assert!(refusal.contains("too long"), "{refusal}");
}

#[test]
fn recipients_are_named_or_in_files_and_never_secret() {
    let folder = Folder::new();
    let key = age::x25519::Identity::generate();
    let (public, secret) = (key.to_public().to_string(), key.to_string());
    let of = |text: &str| {
        let path = folder.file(text.as_bytes());
        let given = [
            "create",
            "--recipients-file",
            path.to_str().expect("a path"),
        ];
        Writes::try_parse_from(given)
            .expect("a command")
            .recipients
            .all()
    };
    let two = of(&format!("# of the team\n{public}\r\n\n  {public}\n")).expect("recipients");
    assert_eq!(two.len(), 2);
    // An empty file must not make a backup that everybody can read.
    let empty = of("# none\n").expect_err("no recipient").to_string();
    assert!(empty.contains("names no recipient"), "{empty}");
    let leaked = format!("{:#}", of(secret.expose_secret()).expect_err("an identity"));
    assert!(
        leaked.contains("stays secret") && !leaked.contains(&secret.expose_secret()[20..]),
        "{leaked}"
    );
    let given = Writes::try_parse_from(["create", "--recipient", secret.expose_secret()]);
    let shown = given.err().expect("refused").to_string();
    assert!(
        shown.contains("stays secret") && !shown.contains(&secret.expose_secret()[20..]),
        "{shown}"
    );
}

#[test]
fn a_file_that_is_overwritten_while_it_is_in_use_gives_no_other_document() {
    let folder = Folder::new();
    let (whole, _backup) = written(&[]);
    let path = folder.file(&whole);
    let file = BackupFile::open(&path, &Identities::default()).expect("opened");
    file.read(|_document| Ok(())).expect("whole");
    file.read(|_document| Ok(())).expect("the same");
    // Another backup, whole as well, in the same place.
    let mut other = header();
    other.heads[0].revision += 1;
    let mut writer = BackupWriter::begin(Vec::new(), &[], other).expect("begun");
    for document in documents() {
        let mut line = Vec::new();
        document.snapshot_line(&"Skills".parse().expect("a name"), &mut line);
        writer.document(line.trim_ascii_end()).expect("written");
    }
    let (other, _backup) = writer.finish().expect("an end");
    folder.read(&other, None).expect("whole");
    let mut documents = 0;
    let refused = file.read(|_document| {
        documents += 1;
        Ok(())
    });
    let refused = format!("{:#}", refused.expect_err("another file"));
    assert!(refused.contains("changed while it was in use"), "{refused}");
    assert_eq!(documents, 0);
    fs::write(&path, &whole).expect("written");
    file.read(|_document| Ok(())).expect("what was confirmed");
}

#[test]
fn heads_that_do_not_fit_their_documents_are_damage() {
    let folder = Folder::new();
    let made = |heads: Vec<Head>| {
        let header = Header { heads, ..header() };
        let mut writer = BackupWriter::begin(Vec::new(), &[], header).expect("begun");
        for document in documents() {
            let mut line = Vec::new();
            document.snapshot_line(&"Skills".parse().expect("a name"), &mut line);
            writer.document(line.trim_ascii_end()).expect("written");
        }
        writer.finish().expect("an end").0
    };
    let head = header().heads.remove(0);
    folder.read(&made(vec![head.clone()]), None).expect("whole");
    let twice = folder.refusal(&made(vec![head.clone(), head.clone()]));
    assert!(twice.contains("is there twice"), "{twice}");
    let below = folder.refusal(&made(vec![Head {
        revision: 2,
        ..head
    }]));
    assert!(below.contains("Skills/c has the revision 3"), "{below}");
}
