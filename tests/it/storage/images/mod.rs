//! The image store's methods (contract section 8) through the agent, on libvirt's test driver: one
//! body of claims for both stores. They run on a directory store everywhere, and in the lab on ZFS
//! pools of their own.

mod disks;
mod import;
mod keys;
mod late;
pub(crate) mod requested;
pub(crate) mod resize;
mod snapshots;
mod tls;
mod volumes;

use serde_json::{Value, json};

use crate::harness::agent::Agent;
use crate::harness::image_store::{
    Bed, MIB, QEMU_IMG, SOON, TEST_DRIVER, ids, qemu_img, store_flags,
};

fn domain(id: &str) -> Value {
    json!({ "id": id, "type": "test", "memory": 64, "cpu": 1 })
}

/// Makes a test of each claim for each store.
macro_rules! on_both_stores {
    ($($module:ident: $($claim:ident)*;)*) => {
        mod directory {
            $($(#[test]
            fn $claim() {
                super::$module::$claim(super::Bed::on_directory());
            })*)*
        }

        mod zpool {
            $($(#[test]
            fn $claim() {
                let Some(bed) = super::Bed::on_zpool() else { return };
                super::$module::$claim(bed);
            })*)*
        }
    };
}

on_both_stores! {
    disks:
        a_guest_without_id_or_disks_and_a_disk_of_nothing_are_invalid_arguments
        disks_without_an_image_or_space_for_them_are_refused_and_nothing_is_made
        disks_are_verified_made_once_and_destroyed_with_their_guest
        a_guest_is_cloned_from_an_image_and_its_disk_grown
        a_volume_that_is_another_is_named_with_what_differs
        the_orchestrators_pipelines_make_and_delete_a_guest
        the_arguments_of_the_pipeline_are_heeded
        disks_of_the_original_image_agent_which_have_no_mark_are_taken_as_they_are;
    import:
        a_raw_and_a_qcow2_disk_become_images_with_the_same_content
        a_file_with_a_name_like_a_place_in_the_network_is_a_file
        an_import_that_cannot_be_is_one_line_with_status_1_and_leaves_nothing
        an_incomplete_qcow2_disk_is_refused
        a_qcow2_that_a_guest_writes_to_is_refused
        a_qcow2_that_is_swapped_meanwhile_reads_no_secret
        a_qcow2_that_is_rewritten_meanwhile_reads_no_secret
        a_compressed_disk_is_decompressed_or_refused;
    resize:
        disks_grow_by_device_or_by_volume_and_the_answer_has_the_sizes
        the_same_guest_is_the_grown_one_from_then_on
        what_cannot_be_is_refused_before_anything_grows
        a_running_guest_is_told_and_an_error_of_that_is_the_callers;
    snapshots:
        snapshots_are_taken_found_listed_and_deleted
        a_snapshot_that_cannot_be_is_refused_in_the_originals_words
        a_rollback_brings_the_content_back_and_spares_newer_snapshots_unless_told
        what_a_running_guest_uses_is_not_rolled_back
        a_snapshot_is_downloaded_as_a_stream_that_becomes_an_image
        a_download_that_cannot_be_has_the_status_that_says_why;
    volumes:
        a_volume_is_made_found_listed_and_deleted
        what_cannot_be_is_refused_in_the_originals_words
        a_dataset_goes_with_all_below_it
        a_scrape_shows_the_size_of_volumes_and_what_is_in_them
        an_image_is_listed_cloned_and_deleted;
}

#[test]
fn each_service_has_its_own_port_and_is_not_found_on_the_other() {
    let bed = Bed::on_directory();
    let body = |method: &str| format!(r#"{{"method":"{method}","params":[{{}}],"id":1}}"#);
    for (method, why) in [
        ("Libvirt.Status", "rpc: can't find service \"Libvirt.Status\""),
        ("Libvirt.ResizeDisk", "rpc: can't find service \"Libvirt.ResizeDisk\""),
        ("ImageStore.Status", "rpc: can't find method \"ImageStore.Status\""),
        ("ImageStore.listImages", "rpc: can't find method \"ImageStore.listImages\""),
    ] {
        let reply = bed.post(&body(method));
        assert_eq!((reply.status, reply.text().as_str()), (400, why));
    }
    let reply = bed.agent.post(body("ImageStore.ListImages").as_bytes());
    let why = "rpc: can't find service \"ImageStore.ListImages\"";
    assert_eq!((reply.status, reply.text().as_str()), (400, why));
    assert_eq!(bed.agent.request("POST", "/snapshots/download", &[], b"{}").status, 404);
    assert_eq!(bed.agent.request_at(bed.address, "GET", "/healthz", &[], b"").status, 200);
    assert_eq!(bed.ok("ListImages", &json!({})), json!({ "images": [] }));
    bed.agent.end();
}

#[test]
fn the_image_store_is_not_served_unless_it_is_asked_for() {
    let agent = Agent::on_test_driver();
    assert!(!agent.log().contains("image store"), "{}", agent.log());
    agent.end();
}
