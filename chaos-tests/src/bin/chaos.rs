//! Clusters of real processes under real faults; see `chaos --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    weir_chaos_tests::cli::main()
}
