from medvit_label.cli import app

app(prog_name="medvit label")
