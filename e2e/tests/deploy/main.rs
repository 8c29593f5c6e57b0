//! The shipped files for Dapr, Kubernetes and Docker: every file is valid, and the files agree with
//! each other and with the programs. Nothing is applied. The programs, sidecars and containers of `pods`
//! and `images` talk to this host alone.

mod manifests;
mod schemas;

mod dapr;
mod docker;
mod doors;
mod engines;
mod examples;
mod helm;
mod images;
mod kubernetes;
mod monitoring;
mod pods;
mod settings;
mod valid;
