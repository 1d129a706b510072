"""Which process runs which tests, and with what it begins: a fixture that takes long is made once, and no process ends long after others.
And which tests take so long that only --slow runs them, with the smaller ones that always do.

pytest-xdist has marks for the first, by which it renames tests; pytest 9.2 does not let it.
"""

from __future__ import annotations

from typing import Any

import pytest

# Files that share a fixture of the session.
_TOGETHER = {"release/test_verify.py": "release/test_diagnosis.py"}
# Files whose tests share nothing but what is made for each value in brackets.
_APART = ("models/test_parity.py", "test_pins.py")
# What takes longest comes first.
_FIRST = (
    "stages/test_attack.py",
    "core/test_polyphase.py",
    "stages/test_encode.py",
    "core/test_bounds.py",
    "test_pins.py",
    "attacks/test_trained_networks.py",
    "recoding/test_subspace_noise.py",
    "recoding/test_guided.py",
    "test_main.py",
    "core/test_bounds_nearness.py",
    "models/test_parity.py",
    "models/test_convnext.py",
    "recoding/test_deep.py",
    "data/test_photographs.py",
    "models/test_choose_format.py",
)

# File -> what the names of its slow tests start with -> what that of a smaller one starts with that always runs; of the same file unless it
# names another; "": all of them. They take ten seconds or more where nothing was compiled before. Others are marked where they stand.
SLOW: dict[str, dict[str, str]] = {
    "core/test_bounds.py": {
        "test_a_bound_that_is_no_number_does_not_hold[1e+25]": "test_a_bound_that_is_no_number_does_not_hold[3e+38]",
        "test_certificate_holds_on_random_layers": "test_certificate_holds_for_every_kind_of_change",
        "test_wrong_scale_is_certified_nowhere": "core/test_each_image.py::test_wrong_scale_never_passes",
    },
    "core/test_bounds_nearness.py": {
        "test_the_gap_has_its_gradient": "core/test_each_image.py::test_wrong_scale_never_passes",
    },
    "core/test_each_image.py": {
        "test_devices_give_the_same_bits": "test_batches_over_a_mesh_are_traced",
        "test_wrong_scale_never_passes[boxed, replace]": "test_wrong_scale_never_passes[boxed]",
        "test_wrong_scale_never_passes[deep]": "test_wrong_scale_never_passes[gaussian]",
        "test_wrong_scale_never_passes[guided]": "test_wrong_scale_never_passes[gaussian]",
    },
    "core/test_leak_floor.py": {
        "test_inpainting_reaches_the_floor[None]": "test_overlapping_windows",
    },
    "core/test_polyphase.py": {
        "test_the_bound_is_tight_for_noise[padding1-0.05]": "test_the_bound_is_tight_for_noise[VALID-0.05]",
    },
    "core/test_stacked.py": {
        "test_noise_is_unseen_by_both_and_seen_by_a_third[gaussian]": "test_noise_is_unseen_by_both_and_seen_by_a_third[boxed]",
    },
    "models/test_choose_format.py": {
        "test_what_a_file_fits_is_found[vit_s32_384-google-expected0]": "test_a_file_without_a_distillation_token",
    },
    "models/test_convnext.py": {
        "test_a_network_without_head_gives_the_same_features": "models/test_loading.py::test_without_a_head",
        "test_logits_are_the_published_ones[timm]": "test_logits_are_the_published_ones[hugging_face]",
    },
    "models/test_efficientnet_lite.py": {
        "test_a_network_without_head_gives_the_same_features": "models/test_loading.py::test_without_a_head",
    },
    "attacks/test_network_known.py": {
        "test_inversion_lowers_its_loss[features-stored]": "test_inversion_lowers_its_loss[hidden-grey]",
    },
    "attacks/test_reader_training.py": {
        "test_fine_tuning_learns_to_read_the_release": "test_from_scratch_learns",
    },
    "attacks/test_trained_networks.py": {
        "test_sides_that_do_not_divide": "test_own_pairs_are_as_good_as_pairs",
        "test_unet_improves_on_the_linear_decoder": "test_own_pairs_are_as_good_as_pairs",
    },
    "data/test_photographs.py": {
        "": "models/test_dinov2_onnx.py::test_the_port_is_the_graph",
    },
    "recoding/test_contrastive.py": {
        "test_recoding_works_and_certificates_of_the_whole_space_hold[gaussian]": "test_recoding_works_and_certificates",
    },
    "recoding/test_deep.py": {
        "test_met_is_true_of_the_stored_file": "recoding/test_designs.py::test_a_record_says_what_the_design_does[deep]",
    },
    "recoding/test_guided.py": {
        "test_jpeg_in_the_loop": "recoding/test_jpeg.py::test_the_soft_gradient_knows_the_quantisation",
        "test_the_best_of_several_attempts_is_kept": "recoding/test_designs.py::test_a_record_says_what_the_design_does[guided]",
    },
    "recoding/test_subspace_noise.py": {
        "test_windows_that_overlap_are_recoded_alike[gaussian-False]": "test_windows_that_overlap_are_recoded_alike[boxed-True]",
    },
    "recoding/test_surrogate_views.py": {
        "test_readers_with_and_without_a_head_both_count[resnet_a-vit_b]": "test_readers_with_and_without_a_head_both_count[vit_b",
    },
    "scripts/test_train_samples.py": {
        "test_a_killed_run_goes_on_to_the_same_weights": "test_the_stem_rate_zero",
        "test_the_branch_scale_is_where_every_block_starts": "test_the_stem_rate_zero",
    },
    "stages/test_attack.py": {
        "test_a_second_artefact_gives_the_release_away": "stages/test_attack_scene.py::test_the_other_artefact",
    },
    "stages/test_compilation_cache.py": {
        "test_a_second_process_compiles_nothing_and_makes_the_same_files": "test_the_default_is_the_users_cache",
    },
    "stages/test_encode.py": {
        "test_batches_and_threads_do_not_change_a_byte[64-4]": "test_batches_and_threads_do_not_change_a_byte",
        "test_many_processes_give_the_same_files": "test_many_devices_give_the_same_files[boxed]",
    },
    "stages/test_planned.py": {
        "test_white_noise_gives_itself_away_and_hardened_does_not": "test_pictures_come_again_under_new_noise",
        "test_it_is_said_in_a_line_for_each_design": "test_pictures_come_again_under_new_noise",
    },
    "stages/test_samples.py": {
        "test_bound_is_tight_along_the_worst_direction": "core/test_bounds_nearness.py::test_the_bound_is_tight",
        "test_measured_gap_is_the_expected_one": "core/test_bounds_nearness.py::test_the_bound_is_of_the_true_gap",
    },
    "stages/test_versions.py": {
        "test_a_clone_that_was_not_installed_does_every_stage": "test_the_version_is_in_the_clone",
    },
    "test_pins.py": {
        "test_bytes_are_what_they_were[contrastive]": "test_bytes_are_what_they_were[overlapping]",
        "test_bytes_are_what_they_were[formats]": "test_an_old_release_verifies",
    },
}


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0].removeprefix("tests/")


def group(nodeid: str) -> str:
    """What goes to one process: the tests of a file, of files that share a fixture, or of a value that nothing is shared with."""
    file = _file(nodeid)
    return f"{file} {nodeid.partition('[')[2]}" if file in _APART else _TOGETHER.get(file, file)


@pytest.hookimpl(tryfirst=True)  # before tests are left out by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of SLOW, and sort all by when they should begin."""
    for item in items:
        name = item.nodeid.partition("::")[2]
        if name.startswith(tuple(SLOW.get(_file(item.nodeid), ()))):
            item.add_marker("slow")
    places = {file: place for place, file in enumerate(_FIRST)}
    items.sort(key=lambda item: places.get(_file(item.nodeid), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`group` to a process, in the order of tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)
