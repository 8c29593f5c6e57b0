//! Generated histories. Each step is one number, which keeps the generator cheap, so that many
//! histories fit into a test run.

use proptest::{prelude::*, test_runner::Config};

use super::{
    model::{DOCUMENTS, Request},
    world::{Step, World},
};

/// The kinds of steps that a property mixes; a letter that appears twice is twice as likely.
///
/// c commit, s set, d deliver, f forge, b begin load, e end load, l lose load, v late answer, p page, h
/// heads, x `mark_diverged`, n new epoch, r restart, i pin.
type Mix = &'static [u8];

fn step(mix: Mix, number: u64) -> Step {
    let kind = mix[(number % 64) as usize * mix.len() / 64];
    let mut rest = number >> 6;
    let mut take = |most: u64| {
        let taken = rest % most;
        rest /= most;
        taken as usize
    };
    // The third collection is followed in few histories only.
    let collection = |take: &mut dyn FnMut(u64) -> usize| [0, 0, 0, 1, 1, 1, 2][take(7)];
    let operation = |take: &mut dyn FnMut(u64) -> usize| Request {
        collection: collection(take),
        document: take(DOCUMENTS as u64),
        delete: take(4) == 3,
    };
    match kind {
        b'c' => Step::Commit(operation(&mut take)),
        b's' => {
            let members = 2 + take(3);
            Step::Set((0..members).map(|_member| operation(&mut take)).collect())
        }
        b'd' => Step::Deliver {
            collection: collection(&mut take),
            back: take(12),
            without_value: take(8) == 7,
            old: take(8) == 7,
        },
        b'f' => Step::Forge {
            collection: collection(&mut take),
            lead: 1 + take(300) as u64,
            kind: take(5),
        },
        b'b' => Step::BeginLoad,
        b'e' => Step::EndLoad {
            back: take(4) * take(4),
            old: take(4) == 3,
        },
        b'l' => Step::LoseLoad,
        b'v' => Step::LateAnswer,
        b'p' => Step::Page { size: 1 + take(6) },
        b'h' => Step::Heads,
        b'x' => Step::Distrust {
            collection: collection(&mut take),
        },
        b'n' => Step::Epoch { back: take(6) },
        b'r' => Step::Restart {
            followed: 1 + take(7) as u8,
        },
        b'i' => Step::Pin,
        other => unreachable!("{} is no step", other as char),
    }
}

fn histories(mix: Mix, longest: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        any::<u64>().prop_map(move |number| step(mix, number)),
        1..longest,
    )
}

/// Runs a history, then catches up.
fn live(followed: u8, steps: Vec<Step>, by_delta: Option<usize>) {
    let mut world = World::new(followed);
    world.load_newest();
    steps.into_iter().for_each(|step| world.step(step));
    world.converges(by_delta);
}

fn cases(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Most histories follow the first two of three collections.
fn followed() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![3, 3, 3, 3, 7, 1, 2, 6])
}

fn by_delta() -> impl Strategy<Value = Option<usize>> {
    prop::option::weighted(0.8, 1..8usize)
}

proptest! {
    #![proptest_config(cases(40_000))]
    #[test]
    fn sets_events_and_deltas(followed in followed(), steps in histories(b"ccccssddddddddddphf", 36), catch_up in by_delta()) {
        live(followed, steps, catch_up);
    }
}

proptest! {
    #![proptest_config(cases(30_000))]
    #[test]
    fn loads_beside_events(followed in followed(), steps in histories(b"ccccsdddddddddbbbeeelvpxif", 40), catch_up in by_delta()) {
        live(followed, steps, catch_up);
    }
}

proptest! {
    #![proptest_config(cases(20_000))]
    #[test]
    fn restarts_from_an_image(followed in followed(), steps in histories(b"cccssdddddddbbeeprrhf", 36), catch_up in by_delta()) {
        live(followed, steps, catch_up);
    }
}

proptest! {
    #![proptest_config(cases(15_000))]
    #[test]
    fn restored_stores(followed in followed(), steps in histories(b"cccsddddddbbbeeeepnnxrihf", 44), catch_up in by_delta()) {
        live(followed, steps, catch_up);
    }
}

proptest! {
    #![proptest_config(cases(15_000))]
    #[test]
    fn differences(followed in followed(), steps in histories(b"ccccssddddddddpbbexnriiiii", 44), catch_up in by_delta()) {
        live(followed, steps, catch_up);
    }
}

proptest! {
    #![proptest_config(cases(5_000))]
    #[test]
    fn before_the_first_load(followed in followed(), steps in histories(b"cccsdddddddbbeeprf", 40), catch_up in by_delta()) {
        let mut world = World::new(followed);
        steps.into_iter().for_each(|step| world.step(step));
        world.converges(catch_up);
    }
}
