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

#[cfg(debug_assertions)]
mod planted {
    use weir_node::planted::{Suite, run};

    #[test]
    fn each_bug_is_caught_by_its_test() {
        run::each_is_caught(Suite::Api);
    }
}
