//! What is shipped for Dapr, Kubernetes and Docker: every file is valid, and they agree with each
//! other and with the programs. Nothing is applied anywhere and nothing asks the network.

mod manifests;
mod schemas;

mod dapr;
mod docker;
mod kubernetes;
mod settings;
mod valid;
