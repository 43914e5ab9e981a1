from tools.bench.engines import ROOT, portable


def test_a_recorded_command_names_no_folder_of_this_machine() -> None:
    command = portable([f"{ROOT}/.venv/bin/python", "-m", "tools.bench.worker", f"{ROOT}/build/bench/w4"])
    assert command == ".venv/bin/python -m tools.bench.worker build/bench/w4"
