//! The schemas as contracts: each collection has one, a sample that fills all of it, and a type
//! that loses none of it.

mod complete;
mod contracts;
mod round_trip;
