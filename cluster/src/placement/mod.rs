//! Slot → owners, for one epoch.
