//! Members and placements at one moment, as a value.
