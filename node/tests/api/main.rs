//! The client port: a real server on a free port, real gRPC clients.

mod asset;
mod bad_inputs;
mod bytestream;
mod cas;
mod closures;
mod discovery;
mod hostile_names;
mod references;
mod support;
mod tree;
mod vanishing;
