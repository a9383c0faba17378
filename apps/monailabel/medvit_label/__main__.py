from medvit.settings import wait_passively
from medvit_label.cli import app

wait_passively()
app(prog_name="medvit label")
