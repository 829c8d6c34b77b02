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
        missing_id_disks_or_size_is_an_invalid_argument
        disks_without_image_or_space_are_refused
        disks_are_verified_created_once_and_deleted
        a_guest_is_cloned_from_an_image_and_its_disk_grown
        different_volume_is_named_with_its_differences
        orchestrator_pipelines_create_and_delete_a_guest
        the_arguments_of_the_pipeline_are_heeded
        unmarked_disks_of_the_original_agent_are_adopted;
    import:
        raw_and_qcow2_become_images_of_the_same_content
        file_named_like_a_url_is_a_file
        impossible_import_is_one_line_and_leaves_nothing
        an_incomplete_qcow2_disk_is_refused
        a_qcow2_that_a_guest_writes_to_is_refused
        a_qcow2_that_is_swapped_meanwhile_reads_no_secret
        qcow2_rewritten_during_import_reads_no_secret
        a_compressed_disk_is_decompressed_or_refused;
    resize:
        disks_grow_by_device_or_volume_and_report_sizes
        the_same_guest_is_the_grown_one_from_then_on
        what_cannot_be_is_refused_before_anything_grows
        running_guest_is_notified_and_its_error_reported;
    snapshots:
        snapshots_are_taken_found_listed_and_deleted
        impossible_snapshot_is_refused_in_original_words
        rollback_spares_newer_snapshots_by_default
        what_a_running_guest_uses_is_not_rolled_back
        downloaded_snapshot_stream_becomes_an_image
        impossible_download_has_a_telling_status;
    volumes:
        a_volume_is_made_found_listed_and_deleted
        what_cannot_be_is_refused_in_the_originals_words
        a_dataset_goes_with_all_below_it
        scrape_shows_volume_sizes_and_usage
        an_image_is_listed_cloned_and_deleted;
}

#[test]
fn each_service_is_found_only_on_its_own_port() {
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
fn image_store_is_not_served_by_default() {
    let agent = Agent::on_test_driver();
    assert!(!agent.log().contains("image store"), "{}", agent.log());
    agent.end();
}
