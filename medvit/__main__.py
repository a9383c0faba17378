"""Entry point of ``python -m medvit``."""

from medvit.cli.main import app

app(prog_name="medvit")
