"""Starts `loadline up` with emulated engines and runs both client checks against it."""

import pathlib
import subprocess
import sys
import tempfile
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


def main() -> int:
    binary, node_folder = sys.argv[1], sys.argv[2]
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        log = pathlib.Path(folder, "up.log")
        with log.open("w") as sink:
            up = subprocess.Popen(
                [binary, "up", "-f", str(HERE / "loadline.yaml")],
                stdout=subprocess.PIPE, stderr=sink, text=True,
            )
        try:
            # the first line on standard output names the address
            line = up.stdout.readline()
            base = next((word for word in line.split() if word.startswith("http://")), None)
            if base is None:
                print(f"`loadline up` said {line!r} instead of its address\n{log.read_text()}")
                print("0 passed, 1 failed")
                return 1
            urllib.request.urlopen(f"{base}/readyz", timeout=10).read()
            for command in ([sys.executable, str(HERE / "check.py"), base], ["node", f"{node_folder}/check.mjs", base]):
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=300)
                for line in run.stdout.splitlines():
                    print(line)
                    passed += line.startswith("ok ")
                    failed += line.startswith("FAILED ")
                if run.returncode not in (0, 1):
                    print(f"{command[0]} ended with {run.returncode}")
                    failed += 1
        finally:
            up.terminate()
            up.wait(timeout=60)
        if failed:
            print(log.read_text()[-4000:])
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
