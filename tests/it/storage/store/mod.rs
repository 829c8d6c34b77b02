//! The module `storage`: one body of claims for both stores, and zfs's faults by a stand-in.
//!
//! The claims run on a directory store everywhere, and on the pool that `MISTIFY_TEST_ZPOOL` names,
//! as root, where there is one. They make and destroy `<pool>/guests/<id>` and `<pool>/images/<id>`
//! of ids that begin with `t-`, and leave the rest of the pool alone.

#![expect(clippy::unwrap_used, reason = "claims are tests, though clippy sees plain functions")]

mod bench;
mod directory_store;
mod disks;
mod faults;
mod images;
mod links;
mod real_zfs;
mod snapshots;

use bench::Bench;
pub(crate) use bench::{Holder, begins_with};

/// Makes a test of each claim for each store.
macro_rules! on_both_stores {
    ($($module:ident: $($claim:ident)*;)*) => {
        mod directory {
            $($(#[test]
            fn $claim() {
                super::$module::$claim(&super::Bench::on_directory());
            })*)*
        }

        mod zpool {
            $($(#[test]
            fn $claim() {
                let Some(bench) = super::Bench::on_zpool() else { return };
                super::$module::$claim(&bench);
            })*)*
        }
    };
}

on_both_stores! {
    disks:
        a_blank_volume_has_its_size_its_owner_and_a_device
        the_same_volume_again_is_adopted_with_its_content
        what_was_written_just_now_is_not_adopted
        other_volume_of_that_name_is_refused_with_reason
        clone_has_the_image_content_and_its_size_or_more
        plan_changes_nothing_and_unknown_image_is_missing
        oversized_volume_is_refused_before_any_change
        reservation_takes_space_and_sparse_volume_none
        undo_removes_new_volumes_and_keeps_existing_ones
        a_volume_taken_back_leaves_its_neighbour
        guest_volumes_are_deleted_with_their_snapshots
        open_volume_stays_with_its_snapshots_and_reader
        a_volume_grows_with_its_content_and_never_shrinks
        only_requested_datasets_below_guests_are_deleted;
    snapshots:
        snapshots_are_destroyed_alone_or_recursively
        an_undo_keeps_other_calls_snapshots
        rollback_deletes_newer_snapshots_only_on_request
        an_open_volume_is_not_rolled_back
        a_snapshot_is_sent_as_a_stream;
    images:
        a_raw_file_becomes_an_image_and_goes_again
        an_import_that_fails_leaves_nothing
        a_second_import_of_an_id_is_refused
        of_two_imports_of_an_id_the_second_is_refused
        no_image_is_deleted_while_it_is_imported
        the_newest_snapshot_of_an_image_is_cloned;
}
