//! Each target with the inputs of its corpus (`__fuzz__`) and with bytes at random; `make fuzz` runs
//! the same targets for longer, guided by coverage.

macro_rules! targets {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            bolero::check!()
                .with_max_len(16 << 10)
                .for_each(|bytes: &[u8]| fuzz::$name(bytes));
        }
    )*};
}

targets! {
    image
    image_proven
    keyring
    sealed
    event_data
    change_set
    check_in
    dead_letter
    feed
    history
    problem
    rollback
    schema
    snapshot
    canonical
    escaped
    names
    secret_url
    audit
    keys
}

#[cfg(feature = "services")]
targets! {
    cloud_event
    redis_channel
    authorization
    claims
    credential_files
    issuer_keys
}
