FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN git config --system --add safe.directory /app
ENV PY=python
ENTRYPOINT ["make"]
CMD ["report", "SPARSITY=0.5"]
