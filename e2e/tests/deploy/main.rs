//! The shipped files for Dapr, Kubernetes and Docker: every file is valid, and the files agree with
//! each other and with the programs. Nothing is applied, and no test uses the network.

mod manifests;
mod schemas;

mod dapr;
mod docker;
mod kubernetes;
mod settings;
mod valid;
