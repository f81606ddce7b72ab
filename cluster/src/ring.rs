//! The consistent-hash ring: nodes in the order in which they follow a point.
