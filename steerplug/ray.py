"""`serve run steerplug.ray:app`: what `steerplug serve` serves, by Ray Serve on many machines.

The arguments of `app` are those of `steerplug serve --config`: `config=serve.yaml` names such a
file, which every node needs not have, and any other is a key of it. So for `serve deploy`:

    applications:
      - name: steerplug
        import_path: steerplug.ray:app
        args: {model: qwen3-4b.gguf, n-ctx: 8192, n-threads: 8, presets-at: s3://team/presets}
        deployments:
          - {name: Replica, num_replicas: 4}
"""

from collections.abc import Mapping
from typing import Any

from ray.serve import Application

from steerplug.cluster.application import application
from steerplug.commands.serve import read


def app(args: Mapping[str, Any]) -> Application:
    """Return the application that the arguments describe.

    Raises:
        SteerplugError: they do not go together, or say what is no setting.
    """
    return application(*read(args))
