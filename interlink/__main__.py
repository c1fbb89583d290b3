from interlink.cli import app

app()
