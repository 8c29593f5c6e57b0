//! Images: a written image is read back, and a changed one is refused.

use proptest::{prelude::*, test_runner::Config};

use super::{
    model::{Model, Request, name},
    world::{World, machine},
};
use crate::{Image, ImageError, Machine, image::ImageMeta};

/// An image with every element: two collections, a range beyond a gap, a tombstone, an earlier
/// settled point.
fn image() -> Vec<u8> {
    let mut world = World::loaded(3, Model::new());
    let operation = |collection, document| Request {
        collection,
        document,
        delete: false,
    };
    world
        .model()
        .commit_set(&[operation(0, 0), operation(0, 1), operation(1, 0)]);
    world.load_newest();
    world.model().commit(0, 2, false);
    world.model().commit(0, 1, true);
    let deletion = world.model().change(0, 4).clone();
    world.deliver(&deletion);
    let mut bytes = Vec::new();
    world
        .machine
        .root()
        .write_image(&meta(), &mut bytes)
        .expect("a Vec accepts all");
    bytes
}

fn meta() -> ImageMeta {
    let cursors = [(name(0).clone(), "1700000000000-7".to_owned())].into();
    ImageMeta {
        confirmed_ms: Some(1_700_000_000_000),
        cursors,
    }
}

#[test]
fn a_written_image_is_read_back() {
    let bytes = image();
    let image = Image::read(&bytes[..]).expect("intact");
    assert_eq!(image.meta(), &meta());
    let held = image.root().collection(name(0)).expect("saved");
    assert_eq!(
        (
            held.watermark(),
            held.known(),
            held.ranges_beyond(),
            held.count()
        ),
        (2, 4, 1, 1)
    );
    assert!(held.last_settled().is_some_and(|last| last.revision == 2) && !held.settled());
    let mut again = Vec::new();
    image
        .root()
        .write_image(image.meta(), &mut again)
        .expect("a Vec accepts all");
    assert_eq!(bytes, again);
}

#[test]
fn every_cut_is_refused() {
    let bytes = image();
    for end in 0..bytes.len() {
        assert!(Image::read(&bytes[..end]).is_err(), "cut at {end}");
    }
    let longer: Vec<u8> = bytes.iter().copied().chain(*b"\n").collect();
    assert!(Image::read(&longer[..]).is_err());
}

#[test]
fn an_image_of_another_format_says_so() {
    let image = Image::read(&b"{\"format\":2,\"whatever\":true}\n"[..]);
    assert!(matches!(image, Err(ImageError::Format(2))), "{image:?}");
}

#[test]
fn only_a_machine_that_has_loaded_nothing_is_restored() {
    let read = || Image::read(&image()[..]).expect("intact");
    let mut loaded = World::loaded(3, Model::new()).machine;
    assert!(!loaded.restore(read()));
    assert_eq!(
        loaded.root().collection(name(0)).map(|held| held.count()),
        Some(0)
    );
    let mut fresh: Machine = machine(1);
    assert!(fresh.restore(read()) && !fresh.restore(read()));
    assert!(fresh.root().loaded() && fresh.root().collection(name(1)).is_none());
    let gaps: Vec<_> = fresh.root().gaps().into_iter().collect();
    assert_eq!(
        gaps,
        [(name(0).clone(), 2)],
        "the hole below what was seen heals first"
    );
}

proptest! {
    #![proptest_config(Config { cases: 5_000, failure_persistence: None, ..Config::default() })]
    #[test]
    fn every_flip_is_refused(at: prop::sample::Index, mask in 1..=255u8) {
        thread_local!(static IMAGE: Vec<u8> = image());
        let mut bytes = IMAGE.with(Vec::clone);
        let at = at.index(bytes.len());
        bytes[at] ^= mask;
        prop_assert!(Image::read(&bytes[..]).is_err(), "byte {} flipped by {}", at, mask);
    }
}
