use contract::access::ANONYMOUS;
use tempfile::TempDir;

use super::*;
use crate::{SecretToken, table::tests::record};

fn read(path: &Path, _most: u64) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// An authenticator with a file of tokens.
fn with_file(
    anonymous: Anonymous,
    records: &[TokenRecord],
) -> (Arc<Authenticator>, PathBuf, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    write(&path, records);
    let setup = Setup {
        anonymous,
        files: Files {
            tokens: Some(path.clone()),
            ..Files::default()
        },
        read,
        http: no_client,
    };
    let made = Authenticator::new(setup).expect("a good file");
    (Arc::new(made), path, folder)
}

fn write(path: &Path, records: &[TokenRecord]) {
    let lines = records.iter().map(serde_json::to_string);
    let lines: Vec<_> = lines.map(|line| line.expect("JSON")).collect();
    std::fs::write(path, lines.join("\n")).expect("a file");
}

async fn name(authenticator: &Authenticator, presented: Presented<'_>) -> Result<String, Refused> {
    let identity = authenticator.authenticate(presented).await?;
    Ok(identity.name.to_string())
}

fn header(text: &str) -> Presented<'_> {
    Presented {
        authorization: Some(text),
        ..Presented::default()
    }
}

const LOCAL: Presented<'_> = Presented {
    authorization: None,
    certificate: None,
    is_local: true,
};

#[tokio::test]
async fn without_credentials_every_caller_has_every_right() {
    let open = Authenticator::open();
    for presented in [
        Presented::default(),
        header("Basic YTpi"),
        header("Bearer x"),
        LOCAL,
    ] {
        assert_eq!(name(&open, presented).await.as_deref(), Ok(ANONYMOUS));
    }
}

#[tokio::test]
async fn a_token_decides_also_where_a_caller_needs_none() {
    let token = SecretToken::generate();
    for anonymous in [Anonymous::Local, Anonymous::Refused] {
        let (authenticator, _path, _folder) = with_file(anonymous, &[record(&token, "ann")]);
        for header in [
            format!("Bearer {}", token.expose()),
            format!("bearer   {}  ", token.expose()),
        ] {
            let presented = Presented {
                authorization: Some(&header),
                ..LOCAL
            };
            assert_eq!(
                name(&authenticator, presented).await.as_deref(),
                Ok("token:ann")
            );
        }
        let stranger = SecretToken::generate();
        let stranger = format!("Bearer {}", stranger.expose());
        for header in [
            &stranger,
            "Bearer ",
            "Bearer",
            "Bearer a b",
            "Basic YTpi",
            "",
            "Bearer x",
        ] {
            let presented = Presented {
                authorization: Some(header),
                ..LOCAL
            };
            let refused = name(&authenticator, presented).await;
            assert!(
                matches!(refused, Err(Refused::Invalid(_))),
                "{header}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_anonymous_caller_is_admitted_on_this_host_alone_and_only_when_told_so() {
    let (local, _path, _folder) = with_file(Anonymous::Local, &[]);
    assert_eq!(name(&local, LOCAL).await.as_deref(), Ok(ANONYMOUS));
    assert_eq!(
        name(&local, Presented::default()).await,
        Err(Refused::Missing)
    );
    let (refusing, _path, _folder) = with_file(Anonymous::Refused, &[]);
    assert_eq!(name(&refusing, LOCAL).await, Err(Refused::Missing));
}

#[tokio::test]
async fn a_token_of_the_store_is_not_refused_before_the_store_was_read() {
    let token = SecretToken::generate();
    let (authenticator, _path, _folder) = with_file(Anonymous::Refused, &[]);
    let store = StoreTokens::default();
    authenticator.use_store(store.clone());
    let text = format!("Bearer {}", token.expose());
    let refused = name(&authenticator, header(&text)).await;
    assert!(
        matches!(refused, Err(Refused::Unavailable(_))),
        "{refused:?}"
    );
    store.set([]);
    let refused = name(&authenticator, header(&text)).await;
    assert!(matches!(refused, Err(Refused::Invalid(_))), "{refused:?}");
    store.set([record(&token, "ann")]);
    assert_eq!(
        name(&authenticator, header(&text)).await.as_deref(),
        Ok("token:ann")
    );
}

#[tokio::test]
async fn a_file_that_changes_is_in_force_and_a_broken_one_leaves_the_former() {
    let (first, second) = (SecretToken::generate(), SecretToken::generate());
    let (authenticator, path, _folder) = with_file(Anonymous::Refused, &[record(&first, "one")]);
    let texts = [&first, &second].map(|token| format!("Bearer {}", token.expose()));
    let known = async || {
        let [one, two] = &texts;
        let one = name(&authenticator, header(one)).await.is_ok();
        (one, name(&authenticator, header(two)).await.is_ok())
    };
    assert_eq!(known().await, (true, false));
    // It may be half of a file that somebody is writing.
    write(&path, &[]);
    authenticator.look();
    assert_eq!(known().await, (true, false));
    write(&path, &[record(&second, "two")]);
    authenticator.look();
    assert_eq!(known().await, (true, false));
    authenticator.look();
    assert_eq!(known().await, (false, true));
    for broken in ["{", "\u{feff}x"] {
        std::fs::write(&path, broken).expect("a file");
        authenticator.look();
        authenticator.look();
    }
    std::fs::remove_file(&path).expect("the file");
    authenticator.look();
    assert_eq!(known().await, (false, true));
    write(&path, &[]);
    authenticator.look();
    authenticator.look();
    assert_eq!(known().await, (false, false));
}

#[test]
fn a_start_with_a_broken_file_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, "x").expect("a file");
    for kind in FileKind::ALL {
        for path in [path.clone(), folder.path().join("none")] {
            let some = |of: FileKind| (of == kind).then(|| path.clone());
            let setup = Setup {
                anonymous: Anonymous::Refused,
                files: Files {
                    tokens: some(FileKind::Tokens),
                    issuers: some(FileKind::Issuers),
                    certificates: some(FileKind::Certificates),
                },
                read,
                http: no_client,
            };
            let errors = Authenticator::new(setup).expect_err("a broken file");
            assert_eq!(errors.len(), 1);
            assert_eq!((&errors[0].path, errors[0].kind), (&path, kind));
        }
    }
}
