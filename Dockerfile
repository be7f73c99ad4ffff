# One image for all roles: dsm-node, the dsm command, producers. Which of them, compose.yaml says.
FROM python:3.11-slim

WORKDIR /src
COPY pyproject.toml README.md ./
COPY dsm dsm
COPY client client
COPY server server
COPY netem netem
RUN pip install --no-cache-dir '.[node,cli,typed]'

CMD ["dsm", "--help"]
