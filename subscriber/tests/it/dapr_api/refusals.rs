//! Who may call, and what is refused in words.

use super::*;

#[tokio::test]
async fn what_cannot_be_answered_is_refused_in_words() {
    let flags = [SERVED, "--limit-streams=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let mut client = subscriber.dapr().await;
        let many: Vec<_> = (0..1_001).map(|n| format!("k{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        for (request, part) in [
            (get("Unknown", &[]), "store Unknown not found"),
            (get("no name!", &["x"]), "not found"),
            (get("A", &["no key"]), "no key"),
            (get("A", &many), "1000 keys"),
        ] {
            let refused = client.get_configuration(request).await;
            let refused = refused.expect_err("no answer");
            assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
            assert!(refused.message().contains(part), "{refused}");
        }
        let (_id, updates) = subscribed(&mut client, keys("A", &[])).await;
        let full = client.subscribe_configuration(keys("A", &[])).await;
        let full = full.expect_err("one is open");
        assert_eq!(full.code(), Code::ResourceExhausted, "{full}");
        assert!(
            full.message().contains("AURA_CONFIGURATION_LIMIT_STREAMS"),
            "{full}"
        );
        // One that is dropped makes place.
        drop(updates);
        let again = async {
            while client
                .subscribe_configuration(keys("A", &[]))
                .await
                .is_err()
            {}
        };
        timeout(DEADLINE, again).await.expect("a place");
        let foreign = subscriber.client.get(format!(
            "http://{}/v1.0/configuration/A",
            subscriber.dapr_api()
        ));
        for (name, value) in [
            ("origin", "https://evil.example"),
            ("sec-fetch-site", "cross-site"),
            ("host", "evil.example"),
        ] {
            let request = foreign.try_clone().expect("a request").header(name, value);
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), 403, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_token_of_the_sidecar_is_asked_for() {
    let flags = [SERVED, "--dapr-api-token=secret", "--dapr-grpc-port=1"];
    check(&flags, publisher(7, 0), async |subscriber| {
        subscriber.reaches(ReplicaState::Current).await;
        let mut client = subscriber.dapr().await;
        let with = |token: &'static str| {
            let mut request = Request::new(get("A", &["x"]));
            let token = token.parse().expect("metadata");
            request.metadata_mut().insert("dapr-api-token", token);
            request
        };
        let refused = client.get_configuration(get("A", &["x"])).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
        let refused = client.get_configuration(with("other")).await;
        assert_eq!(refused.expect_err("wrong").code(), Code::Unauthenticated);
        client
            .get_configuration(with("secret"))
            .await
            .expect("values");
        // Also of calls that would be passed on.
        let refused = client.get_state(GetStateRequest::default()).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
    })
    .await;
}

#[tokio::test]
async fn a_caller_reads_what_the_http_api_lets_it_read() {
    let token = auth::SecretToken::generate();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let record = json!({
        "id": token.hash().id(), "name": "reader", "hash": token.hash(),
        "grants": [{"role": "reader", "collections": ["A"], "idPrefix": "x"}],
        "createdAt": "2026-01-01T00:00:00Z", "createdBy": "test",
    });
    std::fs::write(file.path(), format!("{record}\n")).expect("written");
    let tokens = format!("--tokens-file={}", file.path().display());
    let flags = [SERVED, "--events-manager=FEED", &tokens];
    check(&flags, publisher(7, 1), async |subscriber| {
        let mut client = subscriber.dapr().await;
        let shown = token.expose().to_owned();
        let with = |name: &'static str, value: String, request| {
            let mut request = Request::new(request);
            let value = value.parse().expect("metadata");
            request.metadata_mut().insert(name, value);
            request
        };
        let refused = client.get_configuration(get("A", &["x"])).await;
        assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
        // Of two, none decides.
        let mut two = with("authorization", format!("Bearer {shown}"), get("A", &["x"]));
        let garbage = "cct_garbage".parse().expect("metadata");
        two.metadata_mut().insert("dapr-api-token", garbage);
        let refused = client.get_configuration(two).await;
        assert_eq!(refused.expect_err("two").code(), Code::Unauthenticated);
        for (name, value) in [
            ("authorization", format!("Bearer {shown}")),
            ("dapr-api-token", shown.clone()),
        ] {
            let read = client.get_configuration(with(name, value.clone(), get("A", &["x"])));
            assert_eq!(read.await.expect("values").into_inner().items.len(), 1);
            for forbidden in [
                get("A", &[]),
                get("A", &["large-0"]),
                get("B", &["x"]),
                get("!", &[]),
            ] {
                let refused = client.get_configuration(with(name, value.clone(), forbidden));
                let refused = refused.await.expect_err("forbidden");
                assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            }
        }
    })
    .await;
}
