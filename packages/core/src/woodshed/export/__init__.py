"""Take a trained policy home: a PEFT folder, merged weights or a GGUF file, with a model card; or push it to the hub.

```python
run = woodshed.train(...)
woodshed.export.export_run(run.folder, to="my-policy", best=True, merged="auto")
```
"""

from woodshed.export.export import Exported, export_run

__all__ = ["Exported", "export_run"]
