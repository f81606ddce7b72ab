//! The data plane of a gateway: which nodes a verb asks, and when it answers.
