//! Any history against a plain model, and named cases beside it.
//!
//! `model` is what a publisher would hold; `world` drives a machine through a history and compares
//! after every step; `histories` generates them. The rest are single cases, each of which was or
//! could have been a mistake.

mod capacity;
mod cases;
mod differences;
mod histories;
mod images;
mod model;
mod sets;
mod world;
