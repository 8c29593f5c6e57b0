//! Floors and peers: the minimum that could do the same, from ordinary packages. Nothing here is
//! part of the product.

pub(crate) mod appended;
pub(crate) mod channel;
pub(crate) mod constant;
pub(crate) mod consul;
pub(crate) mod driver;
pub(crate) mod etcd;
pub(crate) mod node;
pub(crate) mod payload;
pub(crate) mod posts;
pub(crate) mod receiver;
pub(crate) mod renamed;
pub(crate) mod server;
pub(crate) mod sidecars;
