-- Roles and database of the voting system in a Postgres that others run. For a role with CREATEROLE and CREATEDB, in
-- database postgres, by psql. May be run again: passwords are then set again and nothing else changes.
\set ON_ERROR_STOP on
SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['waggle_admin', 'waggle_drain', 'waggle_results']) AS name
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

ALTER ROLE waggle_admin   LOGIN CONNECTION LIMIT 10 PASSWORD :'admin_password';
ALTER ROLE waggle_drain   LOGIN CONNECTION LIMIT 50 PASSWORD :'drain_password';
ALTER ROLE waggle_results LOGIN CONNECTION LIMIT 50 PASSWORD :'results_password';

ALTER ROLE waggle_admin   SET lock_timeout = '10s';
ALTER ROLE waggle_drain   SET statement_timeout = '10s';
ALTER ROLE waggle_drain   SET lock_timeout = '5s';
ALTER ROLE waggle_drain   SET idle_in_transaction_session_timeout = '10s';
ALTER ROLE waggle_results SET statement_timeout = '5s';
ALTER ROLE waggle_results SET lock_timeout = '2s';
ALTER ROLE waggle_results SET default_transaction_read_only = on;

-- Whoever makes a database for a role has to be a member of it.
GRANT waggle_admin TO CURRENT_USER;
SELECT 'CREATE DATABASE waggle OWNER waggle_admin'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'waggle') \gexec
REVOKE ALL ON DATABASE waggle FROM PUBLIC;
GRANT CONNECT ON DATABASE waggle TO waggle_drain, waggle_results;
