//! Real nodes whose volume runs full, turns read-only, vanishes or rots, and a
//! store whose machine loses power.
//!
//! Protects: nothing acknowledged is lost and no wrong byte is sent, whatever
//! the volume does; a node whose volume fails says so and goes on without it; a
//! node that may not go on stops and says what to do.
//!
//! All but the rot need root, loop devices, mkfs.ext4 and perl; without them they
//! say so and pass. What rots is changed in a node's files while it is stopped.

mod calls;
#[path = "../support/commands.rs"]
mod commands;
mod full;
mod lost;
mod node;
mod power_cut;
mod rot_blobs;
mod rot_raft;
mod volume;
